from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.kinds.multiple_choice import MultipleChoice
from tests.bench.tasks.kinds import trials


def rows(count: int = 120, choices: int = 3) -> list[dict[str, Any]]:
    """The choice with a digit is right."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        right = draw.randrange(choices)
        texts = [
            "7 7 7" if place == right else draw.choice(["ab", "cd ef", "gh"]) + "xyz"[place % 3]
            for place in range(choices)
        ]
        found.append({"question": f"which {number}?", "choices": texts, "answer": right})
    return found


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "multiple_choice", "data": str(trials.jsonl(tmp_path / "choices.jsonl", rows()))}


class TestData:
    @pytest.mark.parametrize(
        "say",
        [
            lambda row: "ABC"[row["answer"]],
            lambda row: "abc"[row["answer"]],
            lambda row: str(row["answer"]),
            lambda row: row["choices"][row["answer"]],
        ],
    )
    def test_answers_in_other_ways(self, say: Any, table: dict[str, Any], tmp_path: Path) -> None:
        task = trials.own(Path(table["data"]), "multiple_choice")
        assert task.problems() == []
        other = [row | {"answer": say(row)} for row in rows()]
        file = trials.jsonl(tmp_path / "other.jsonl", other)
        assert trials.own(file, "multiple_choice").fingerprint() == task.fingerprint()

    def test_names_and_columns(self, table: dict[str, Any], tmp_path: Path) -> None:
        task = trials.own(Path(table["data"]), "multiple_choice")
        named = [
            {
                "question": row["question"],
                "choices": {"text": row["choices"], "label": ["1", "2", "3"]},
                "key": str(row["answer"] + 1),
            }
            for row in rows()
        ]
        file = trials.jsonl(tmp_path / "arc.jsonl", named)
        arc = trials.own(file, "multiple_choice", choices="choices.text", choice_names="choices.label", answer="key")
        assert arc.fingerprint() == task.fingerprint()
        lines = [",".join([row["question"], *row["choices"], str(row["answer"])]) for row in rows()]
        (tmp_path / "swag.csv").write_text("\n".join(["question,e0,e1,e2,answer", *lines]))
        swag = trials.own(tmp_path / "swag.csv", "multiple_choice", choices=["e0", "e1", "e2"])
        assert swag.fingerprint() == task.fingerprint()

    def test_a_context_comes_first(self, tmp_path: Path) -> None:
        some = [row | {"story": "Once."} for row in rows()]
        task = trials.own(trials.jsonl(tmp_path / "rows.jsonl", some), "multiple_choice", context="story")
        assert isinstance(task, MultipleChoice)
        assert task.texts("train")[0].startswith("Once. which ")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"choices": ["one"]}, "rows.jsonl: line 1: `choices` has 1 choices; two are needed"),
            ({"choices": "one"}, "`choices` is a list"),
            ({"choices": ["one", None]}, "`choices` is a list of texts, found None in it"),
            (
                {"answer": 3},
                "`answer` is none of the 2 choices, found 3; give the right one's text, its letter (A to B) or its number (0 to 1)",
            ),
            ({"answer": "C"}, "found 'C'"),
            ({"answer": True}, "found True"),
        ],
    )
    def test_a_fault_is_named_by_its_line(self, change: dict[str, Any], says: str, tmp_path: Path) -> None:
        row = {"question": "which?", "choices": ["one", "two"], "answer": 0} | change
        assert says in trials.problem(trials.jsonl(tmp_path / "rows.jsonl", [row]), "multiple_choice")


def test_a_plain_loop_has_the_same_loss_and_accuracy(tiny_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "multiple_choice")
    assert isinstance(task, MultipleChoice)
    model, tokenizer = trials.loaded(tiny_bert, task)
    losses, right = [], []
    for question, choices, answer in zip(*task.data.columns("test"), task.data.answers("test"), strict=True):
        lines = choices.split("\n")
        found = tokenizer([question] * len(lines), lines, padding=True, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**{name: tensor[None] for name, tensor in found.items()}, labels=torch.tensor([answer]))
        losses.append(float(outputs.loss))
        right.append(int(outputs.logits.argmax()) == answer)
    assert trials.loss(task, model, tokenizer) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert trials.alike_in_any_batch(task, model, tokenizer).metrics["accuracy"] == sum(right) / len(right)


def test_items_may_have_different_numbers_of_choices(tiny_bert: Path, tmp_path: Path) -> None:
    mixed = [row for count in (2, 4) for row in rows(60, count)]
    for number, row in enumerate(mixed):
        row["question"] += str(number)
    task = trials.own(trials.jsonl(tmp_path / "rows.jsonl", mixed), "multiple_choice")
    assert isinstance(task, MultipleChoice)
    assert task.choices == 4
    model, tokenizer = trials.loaded(tiny_bert, task)
    model.classifier.weight.data.normal_(0, 1)
    (batch,) = task.batches("test", tokenizer, batch_size=100, max_length=64)
    assert batch.tokens == int(batch.inputs["attention_mask"].sum())
    assert batch.padded
    model.requires_grad_(False)
    logits = task.logits(model(**batch.inputs), batch)
    counts = [text.count("\n") + 1 for text in task.data.column("test", 1)]
    assert {2, 4} == set(counts)
    losses = []
    for place, count in enumerate(counts):
        one = {name: tensor[place : place + 1, :count] for name, tensor in batch.inputs.items()}
        alone = model(**one).logits[0]
        assert torch.allclose(logits[place, :count], alone, atol=1e-5)
        losses.append(float(torch.nn.functional.cross_entropy(alone[None], batch.labels[place : place + 1])))
    assert float(task.criterion(model(**batch.inputs), batch)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    trials.alike_in_any_batch(task, model, tokenizer)


def test_chance_is_the_most_frequent_place(table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "multiple_choice")
    assert isinstance(task, MultipleChoice)
    chance = task.chance(None, 64)
    place = "ABC".index(chance.about.removeprefix("choice ")[0])
    training, truth = list(task.data.answers("train")), list(task.data.answers("test"))
    assert training.count(place) == max(training.count(each) for each in range(3))
    assert chance.metrics == {"accuracy": truth.count(place) / len(truth)}


class TestRecipes:
    def test_full_learns(self, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        budget = {"steps": 60, "batch_size": 8, "max_length": 32}
        *_, record, served = trials.run("full(lr=3e-3)", tiny_bert, table, tmp_path, budget=budget)
        assert record["quality"]["metrics"]["accuracy"] > 0.6
        assert {entry["phase"] for entry in served["latency"]} == {"forward"}

    @pytest.mark.parametrize(
        "text",
        [
            "lora(r=2)",
            "full + label_smoothing",
            "full + accumulate(2)",
            "full >> distill(layers=1)",
            "full >> torch_int8_dynamic",
        ],
    )
    def test_runs(self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        trials.run(text, tiny_bert, table, tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            'full + adversarial("fgm")',
            'full + contrastive("simcse")',
            'full >> distill(layers=1, match="hidden")',
            "full >> onnx",
        ],
    )
    def test_what_looks_at_tokens_of_one_text_is_refused(
        self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        (reason,) = trials.refused(text, tiny_bert, table, tmp_path)
        assert "those of a multiple_choice task have several; leave it out" in reason

    def test_a_model_without_the_head(self, tiny_llama: Path, table: dict[str, Any], tmp_path: Path) -> None:
        (reason,) = trials.refused("full", tiny_llama, table, tmp_path)
        assert reason == (
            "choices: transformers has no AutoModelForMultipleChoice for a llama model, so it cannot do a multiple_choice "
            "task; use an encoder, such as minilm"
        )
