from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.kinds.relation_extraction import RelationExtraction, marked
from tests.bench.tasks.kinds import trials


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Who eats whom: the relation is whether the head comes first."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        one, two = draw.sample(["cat", "dog", "fox", "owl"], k=2)
        text = f"{one} eats {two} at {number}"
        head, tail = (one, two) if number % 2 else (two, one)
        spans = [[text.index(each), text.index(each) + 3] for each in (head, tail)]
        found.append({"text": text, "head": spans[0], "tail": spans[1], "label": "eats" if number % 2 else "eaten"})
    return found


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "relation_extraction", "data": str(trials.jsonl(tmp_path / "relations.jsonl", rows()))}


@pytest.mark.parametrize(
    ("head", "tail", "text"),
    [
        ((0, 3), (9, 12), "[E1] cat [/E1] eats [E2] dog [/E2]"),
        ((9, 12), (0, 3), "[E2] cat [/E2] eats [E1] dog [/E1]"),
        ((0, 12), (9, 12), "[E1] cat eats [E2] dog [/E2] [/E1]"),
        ((0, 3), (0, 12), "[E2] [E1] cat [/E1] eats  dog [/E2]".replace("  ", " ")),
        ((0, 3), (3, 8), "[E1] cat [/E1][E2]  eats [/E2] dog"),
    ],
)
def test_markers(head: tuple[int, int], tail: tuple[int, int], text: str) -> None:
    assert marked("cat eats dog", head, tail) == text


class TestData:
    def test_places_and_texts_are_the_same(self, table: dict[str, Any], tmp_path: Path) -> None:
        task = trials.own(Path(table["data"]), "relation_extraction")
        assert isinstance(task, RelationExtraction)
        assert task.problems() == []
        assert task.labels == ("eaten", "eats")
        assert any(text.startswith("[E1] cat [/E1] eats [E2]") for text in task.texts("train"))
        named = [row | {key: row["text"][slice(*row[key])] for key in ("head", "tail")} for row in rows()]
        other = trials.own(trials.jsonl(tmp_path / "named.jsonl", named), "relation_extraction")
        assert other.fingerprint() == task.fingerprint()
        lines = [
            f"{row['text']},{row['head'][0]} {row['head'][1]},{row['tail'][0]} {row['tail'][1]},{row['label']}"
            for row in rows()
        ]
        (tmp_path / "spans.csv").write_text("\n".join(["text,head,tail,label", *lines]))
        assert trials.own(tmp_path / "spans.csv", "relation_extraction").fingerprint() == task.fingerprint()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (
                {"head": "cow"},
                "rows.jsonl: line 1: `head` is `cow`, which is not in `text`; give its place, as [start, end]",
            ),
            ({"tail": "at"}, "`tail` is `at`, which is 3 times in `text`"),
            ({"head": [3, 30]}, "`head` is characters 3 to 30, and `text` has 17; give [start, end] with"),
            ({"head": [3, 3]}, "`head` is characters 3 to 3"),
            ({"head": [3]}, "`head` is an entity, as [3, 8] or as its text, found [3]"),
            ({"label": "N/A"}, "`label` is `N/A`, which marks a missing value"),
        ],
    )
    def test_a_fault_is_named_by_its_line(self, change: dict[str, Any], says: str, tmp_path: Path) -> None:
        row = {"text": "cat eats dog at 1", "head": [0, 3], "tail": [9, 12], "label": "eats"} | change
        assert says in trials.problem(trials.jsonl(tmp_path / "rows.jsonl", [row]), "relation_extraction")


def test_a_plain_loop_has_the_same_loss_and_accuracy(tiny_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "relation_extraction")
    assert isinstance(task, RelationExtraction)
    model, tokenizer = trials.loaded(tiny_bert, task)
    losses, right = [], []
    for text, answer in zip(task.texts("test"), task.data.answers("test"), strict=True):
        with torch.no_grad():
            outputs = model(
                **tokenizer(text, return_tensors="pt"), labels=torch.tensor([model.config.label2id[answer]])
            )
        losses.append(float(outputs.loss))
        right.append(model.config.id2label[int(outputs.logits.argmax())] == answer)
    assert trials.loss(task, model, tokenizer) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert trials.alike_in_any_batch(task, model, tokenizer).metrics["accuracy"] == sum(right) / len(right)


def test_full_learns(tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
    budget = {"steps": 80, "batch_size": 8, "max_length": 64}
    *_, record, _ = trials.run("full(lr=3e-3)", tiny_bert, table, tmp_path, budget=budget)
    assert record["quality"]["metrics"]["accuracy"] > 0.7


@pytest.mark.parametrize("text", ["lora(r=2)", "full >> torch_int8_dynamic", "full >> distill(layers=1)"])
def test_recipes(text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
    trials.run(text, tiny_bert, table, tmp_path)


def test_augment_would_lose_the_markers(tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
    (reason,) = trials.refused('full + augment("eda")', tiny_bert, table, tmp_path)
    assert "those of a relation_extraction task" in reason
