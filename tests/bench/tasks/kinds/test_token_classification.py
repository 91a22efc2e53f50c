from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.kinds.token_classification import TaggedTexts, TokenClassification, scores
from tests.bench.tasks.kinds import trials

NAMES = {"PER": ["ada", "grace hopper", "alan"], "LOC": ["rome", "new york", "oslo"]}


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Sentences with people and places."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        tokens, tags = [f"no{number}"], ["O"]
        for kind in draw.choices(list(NAMES), k=2):
            words = draw.choice(NAMES[kind]).split()
            tokens += ["and", *words]
            tags += ["O", *(f"{'I' if place else 'B'}-{kind}" for place in range(len(words)))]
        found.append({"tokens": tokens, "tags": tags})
    return found


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    file = trials.jsonl(tmp_path / "ner.jsonl", rows())
    return {"kind": "token_classification", "data": str(file)}


class TestScores:
    TRUE = (["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "B-LOC"], ["O"])
    FOUND = (["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC"], ["B-PER"])

    def test_by_hand(self) -> None:
        # True entities: a person, a place; two places; none. Predicted: the person and a wrong one; one that is both; one.
        found = {name: score.value for name, score in scores(self.TRUE, self.FOUND).items()}
        assert found["entity_precision"] == pytest.approx(1 / 4)
        assert found["entity_recall"] == pytest.approx(1 / 4)
        assert found["entity_f1"] == pytest.approx(1 / 4)
        assert found["token_accuracy"] == pytest.approx(4 / 7)
        # B-PER 2·1/(1+3), I-PER 1, O 2·1/(2+1), B-LOC 2·1/(3+1), I-LOC 0
        assert found["macro_f1"] == pytest.approx((1 / 2 + 1 + 2 / 3 + 1 / 2 + 0) / 5)

    @pytest.mark.parametrize("primary", TokenClassification.metrics)
    def test_the_mean_of_the_items_parts_is_the_score(self, primary: str) -> None:
        found = scores(self.TRUE, self.FOUND, primary)[primary]
        assert len(found.items) == 3
        assert sum(found.items) / 3 == pytest.approx(found.value, abs=0.05)

    def test_of_sentences_alike_the_jackknife_is_exact(self) -> None:
        found = scores([["B-A", "O"]] * 5, [["B-A", "B-A"]] * 5)["entity_f1"]
        assert found.value == pytest.approx(2 / 3)
        assert found.items == pytest.approx([2 / 3] * 5)

    def test_nothing_is_no_entity(self) -> None:
        assert scores([["O"]], [["O"]])["entity_f1"].value == 0

    @pytest.mark.parametrize(
        ("true", "found", "f1"),
        [
            (["B-A", "E-A", "O", "S-B"], ["B-A", "I-A", "O", "B-B"], 1.0),
            (["B-A", "L-A", "U-A"], ["B-A", "I-A", "I-A"], 0.0),
            (["NN", "NN", "VB"], ["NN", "NN", "NN"], 0.0),
            (["NN", "NN", "VB"], ["NN", "NN", "VB"], 1.0),
            (["I-A", "I-B"], ["B-A", "B-B"], 1.0),
        ],
    )
    def test_other_ways_to_write_entities(self, true: list[str], found: list[str], f1: float) -> None:
        assert scores([true], [found])["entity_f1"].value == f1

    def test_as_seqeval_and_nervaluate_have_them(self) -> None:
        seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
        import nervaluate

        draw = random.Random(1)
        tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
        for _ in range(20):
            true, found = ([draw.choices(tags, k=length) for length in (3, 8, 20)] for _ in range(2))
            ours = scores(true, found)
            assert ours["entity_f1"].value == pytest.approx(seqeval.f1_score(true, found, zero_division=0))
            assert ours["entity_precision"].value == pytest.approx(
                seqeval.precision_score(true, found, zero_division=0)
            )
            assert ours["entity_recall"].value == pytest.approx(seqeval.recall_score(true, found, zero_division=0))
            strict = nervaluate.Evaluator(true, found, tags=["PER", "LOC"], loader="list").evaluate()["overall"][
                "strict"
            ]
            assert ours["entity_f1"].value == pytest.approx(strict.f1)


class TestData:
    def test_tags_and_what_ranks(self, table: dict[str, Any], tmp_path: Path) -> None:
        task = trials.own(Path(table["data"]), "token_classification")
        assert isinstance(task, TokenClassification)
        assert task.problems() == []
        assert task.tags == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
        assert task.primary == "entity_f1"
        plain = [{"tokens": row["tokens"], "tags": [tag[-3:] for tag in row["tags"]]} for row in rows()]
        other = trials.own(trials.jsonl(tmp_path / "plain.jsonl", plain), "token_classification")
        assert other.problems() == []
        assert other.primary == "macro_f1"
        asked = trials.own(tmp_path / "plain.jsonl", "token_classification", metric="token_accuracy")
        assert asked.problems() == []
        assert asked.primary == "token_accuracy"

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ({"tokens": ["a", "b"], "tags": ["O"]}, "rows.jsonl: line 2: 2 tokens have 1 tags; give each token one"),
            ({"tokens": [], "tags": []}, "line 2: `tokens` has no tokens; fill it in or take the row out"),
            ({"tokens": "a b", "tags": ["O", "O"]}, 'line 2: `tokens` is a list, as ["one", "two"], found \'a b\''),
            ({"tokens": ["a", None], "tags": ["O", "O"]}, "line 2: `tokens` is a list of texts, found None in it"),
            ({"tokens": ["a"]}, "line 2 has no `tags`"),
        ],
    )
    def test_a_fault_is_named_by_its_line(self, row: dict[str, Any], says: str, tmp_path: Path) -> None:
        file = trials.jsonl(tmp_path / "rows.jsonl", [rows(1)[0], row])
        assert says in trials.problem(file, "token_classification")

    def test_one_tag_is_none(self, tmp_path: Path) -> None:
        same = [{"tokens": [f"t{number}"], "tags": ["O"]} for number in range(60)]
        file = trials.jsonl(tmp_path / "rows.jsonl", same)
        assert trials.problem(file, "token_classification") == "rows: all tokens have one tag, `O`; two are needed"

    def test_csv_has_white_space_between(self, tmp_path: Path) -> None:
        lines = [f"{' '.join(row['tokens'])},{' '.join(row['tags'])}" for row in rows()]
        (tmp_path / "ner.csv").write_text("\n".join(["words,ner", *lines]))
        task = trials.own(tmp_path / "ner.csv", "token_classification", tokens="words", tags="ner")
        assert task.problems() == []
        assert (
            task.fingerprint()
            == trials.own(trials.jsonl(tmp_path / "ner.jsonl", rows()), "token_classification").fingerprint()
        )


class TestEncoded:
    def test_the_first_piece_alone_has_a_label(self, tiny_bert: Path, table: dict[str, Any]) -> None:
        _, tokenizer = trials.loaded(tiny_bert, trials.own(Path(table["data"]), "token_classification"))
        batch = TaggedTexts(tokenizer, ["no\n42", "7"], [["O", "N"], ["N"]], ["N", "O"], 32).batch([1, 0])
        assert batch.labels.tolist() == [[-100, 0, -100, -100, -100, -100], [-100, 1, -100, 0, -100, -100]]
        assert (batch.lengths, batch.terms, batch.items) == ((3, 6), (1, 2), (1, 0))

    def test_as_word_ids_have_it(self, tiny_bert: Path, table: dict[str, Any]) -> None:
        task = trials.own(Path(table["data"]), "token_classification")
        _, tokenizer = trials.loaded(tiny_bert, task)
        assert isinstance(task, TokenClassification)
        for batch in task.batches("test", tokenizer, batch_size=1, max_length=24):
            words = task.texts("test")[batch.items[0]].split("\n")
            tags = task.data.answers("test")[batch.items[0]]
            found = tokenizer(words, is_split_into_words=True, truncation=True, max_length=24)
            ids = found.word_ids()
            expected = [
                -100 if word is None or word == before else task.tags.index(tags[word])
                for word, before in zip(ids, [None, *ids], strict=False)
            ]
            assert batch.labels[0].tolist() == expected
            assert batch.inputs["input_ids"][0].tolist() == found["input_ids"]

    def test_a_token_beyond_the_length_or_of_no_piece_counts_as_outside(self, tiny_bert: Path, tmp_path: Path) -> None:
        some = [
            {"tokens": ["a", "\u200b", f"x{number + 10}", "zzzzzz"], "tags": ["O", "B-A", "O", "B-A"]}
            for number in range(40)
        ]
        task = trials.own(trials.jsonl(tmp_path / "rows.jsonl", some), "token_classification")
        assert isinstance(task, TokenClassification)
        model, tokenizer = trials.loaded(tiny_bert, task)
        encoded = task.encoded("test", tokenizer, 6)
        assert [encoded.places(item) for item in range(len(encoded))] == [[0, 2]] * len(encoded)
        with torch.no_grad():
            for parameter in model.classifier.parameters():  # it says B-A of all that it sees
                parameter.copy_(torch.tensor([1.0, 0.0]) if parameter.ndim == 1 else torch.zeros_like(parameter))
        quality = task.evaluate(model, tokenizer, batch_size=4, max_length=6)
        assert quality.metrics["entity_recall"] == 0
        assert quality.metrics["token_accuracy"] == 0, "both that are beyond are places, and both others are none"


def spans(tags: list[str]) -> list[tuple[int, int, str]]:
    """Where entities begin and end, by a walk over the tags."""
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        kind = tag[2:]
        goes_on = tag[0] == "I" and found and found[-1][1:] == (place, kind)
        if goes_on:
            found[-1] = (found[-1][0], place + 1, kind)
        elif tag != "O":
            found.append((place, place + 1, kind))
    return found


def test_a_plain_loop_has_the_same_loss_and_scores(tiny_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "token_classification")
    assert isinstance(task, TokenClassification)
    model, tokenizer = trials.loaded(tiny_bert, task)
    model.classifier.weight.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    losses, true, predicted = [], [], []
    for text, tags in zip(task.texts("test"), task.data.answers("test"), strict=True):
        words = text.split("\n")
        found = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        ids = found.word_ids()
        heads = {word: place for place, word in reversed(list(enumerate(ids))) if word is not None}
        labels = torch.full((1, len(ids)), -100)
        for word, place in heads.items():
            labels[0, place] = model.config.label2id[tags[word]]
        with torch.no_grad():
            outputs = model(**found, labels=labels)
        losses += [float(outputs.loss)] * len(words)
        predicted.append(
            [model.config.id2label[int(outputs.logits[0, heads[word]].argmax())] for word in range(len(words))]
        )
        true.append(tags)
    assert trials.loss(task, model, tokenizer) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    quality = trials.alike_in_any_batch(task, model, tokenizer)
    entities = [{(text, *each) for text, tags in enumerate(of) for each in spans(tags)} for of in (true, predicted)]
    right, total = len(entities[0] & entities[1]), len(entities[0]) + len(entities[1])
    assert quality.metrics["entity_f1"] == pytest.approx(2 * right / total)
    assert 0 < quality.metrics["entity_f1"] < 1


def test_chance_is_the_most_frequent_tag(tiny_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "token_classification")
    assert isinstance(task, TokenClassification)
    chance = task.chance(None, 64)
    tags = [tag for row in task.data.answers("test") for tag in row]
    assert "`O`" in chance.about
    assert chance.metrics["token_accuracy"] == pytest.approx(tags.count("O") / len(tags))
    assert chance.metrics["entity_f1"] == 0


class TestRecipes:
    def test_full_learns(self, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        budget = {"steps": 60, "batch_size": 8, "max_length": 64}
        *_, record, served = trials.run("full(lr=3e-3)", tiny_bert, table, tmp_path, budget=budget)
        assert record["quality"]["metrics"]["entity_f1"] > 0.3
        assert {entry["phase"] for entry in served["latency"]} == {"forward"}

    @pytest.mark.parametrize(
        "text", ["lora(r=2)", "full + label_smoothing", "full + rdrop", "prompt(2)", "full >> distill(layers=1)"]
    )
    def test_trains(self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        trials.run(text, tiny_bert, table, tmp_path)

    def test_compresses(self, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        _, record, _ = trials.run("full >> torch_int8_dynamic", tiny_bert, table, tmp_path)
        assert {"entity_f1", "agreement", "kl_divergence"} <= record["quality"]["metrics"].keys()
        assert len(record["quality"]["correct"]) == len(
            trials.own(Path(table["data"]), "token_classification").texts("test")
        )  # type: ignore[attr-defined]
