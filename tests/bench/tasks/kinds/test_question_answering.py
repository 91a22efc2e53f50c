from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.base import TaskError
from bench.tasks.kinds.question_answering import QuestionAnswering, Windows, normalized, scores
from tests.bench.tasks.kinds import trials


def rows(count: int = 120, without: bool = False) -> list[dict[str, Any]]:
    """The number in the text is the answer; where asked, a third of the texts have none."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        words = [draw.choice(["ab", "cd", "ef"]) for _ in range(draw.randrange(3, 8))]
        place = draw.randrange(len(words))
        none = without and number % 3 == 0
        if not none:
            words[place] = str(number + 100)
        text = " ".join(words)
        start = text.find(words[place])
        answers = {"text": [], "answer_start": []} if none else {"text": [words[place]], "answer_start": [start]}
        found.append(
            {"id": number, "question": f"what {'xyz'[number % 3]}{number}?", "context": text, "answers": answers}
        )
    return found


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "question_answering", "data": str(trials.jsonl(tmp_path / "squad.jsonl", rows()))}


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


class TestScores:
    @pytest.mark.parametrize(
        ("answer", "said"),
        [("The Cat!", "cat"), ("a  cat's an", "cats"), ("theatre", "theatre"), ("...", ""), ("U.S.", "us")],
    )
    def test_normalized(self, answer: str, said: str) -> None:
        assert normalized(answer) == said

    @pytest.mark.parametrize(
        ("truth", "guess", "f1", "exact"),
        [
            (["the black cat"], "a black cat", 1, 1),
            (["black cat"], "big black cat", 2 * (2 / 3) * 1 / (2 / 3 + 1), 0),
            (["cat", "black cat"], "black cat.", 1, 1),
            (["cat cat"], "cat", 2 * 1 * 0.5 / 1.5, 0),
            (["cat"], "dog", 0, 0),
            ([], "", 1, 1),
            ([], "cat", 0, 0),
            (["cat"], "", 0, 0),
            (["cat"], None, 0, 0),
            ([], None, 0, 0),
        ],
    )
    def test_by_hand(self, truth: list[str], guess: str | None, f1: float, exact: int) -> None:
        found = scores([truth], [guess])
        assert found["answer_f1"].value == pytest.approx(f1)
        assert found["exact_match"].value == exact


class TestData:
    def test_forms_of_answers(self, table: dict[str, Any], tmp_path: Path) -> None:
        task = trials.own(Path(table["data"]), "question_answering")
        assert isinstance(task, QuestionAnswering)
        assert task.problems() == []
        assert task.always
        forms = [
            [
                row | {"answers": [{"text": row["answers"]["text"][0], "start": row["answers"]["answer_start"][0]}]}
                for row in rows()
            ],
            [row | {"answers": row["answers"]["text"]} for row in rows()],
            [row | {"answers": row["answers"]["text"][0]} for row in rows()],
        ]
        for form in forms:
            other = trials.own(trials.jsonl(tmp_path / "other.jsonl", form), "question_answering")
            assert other.fingerprint() == task.fingerprint()
        shorter = trials.own(Path(table["data"]), "question_answering", answer_tokens=3)
        assert shorter.fingerprint() != task.fingerprint(), "it is scored otherwise"
        none = trials.own(trials.jsonl(tmp_path / "none.jsonl", rows(without=True)), "question_answering")
        assert isinstance(none, QuestionAnswering)
        assert none.problems() == []
        assert not none.always

    @pytest.mark.parametrize(
        ("answers", "says"),
        [
            (
                {"text": ["b c"], "answer_start": [1]},
                "rows.jsonl: line 1: `answers`: `b c` does not stand at character 1 of `context`, where ` b ` is; count characters from 0",
            ),
            ({"text": ["b"], "answer_start": []}, "with a start for each text, found"),
            (
                "z",
                "`answers` is `z`, which is not in `context`; give the number of its first character in `answer_start`",
            ),
            (["a"], "`answers` is `a`, which is 2 times in `context`"),
            ([7], "has a text and the number of its first character for each answer, found (7, None)"),
        ],
    )
    def test_a_fault_is_named_by_its_line(self, answers: Any, says: str, tmp_path: Path) -> None:
        file = trials.jsonl(tmp_path / "rows.jsonl", [{"question": "q", "context": "a b c a", "answers": answers}])
        assert says in trials.problem(file, "question_answering")


class TestWindows:
    def test_every_character_is_in_one_and_the_answer_is_labelled(self, tokenizer: Any) -> None:
        context = "abcd efgh ijkl mnop qrst"
        windows = Windows(tokenizer, ["q?"], [context], [[("ijkl", 10)]], 3, 14)
        assert len(windows) > 2
        seen: set[int] = set()
        holding = 0
        for window in range(len(windows)):
            batch = windows.batch([window])
            inside = windows.inside(window, batch.lengths[0]).nonzero().flatten().tolist()
            spans = [(windows.begins(window, place), windows.ends(window, place)) for place in inside]
            seen |= {character for begin, end in spans for character in range(begin, end)}
            start, end = batch.labels[0].tolist()
            if start:
                assert context[windows.begins(window, start) : windows.ends(window, end)] == "ijkl"
                holding += 1
            else:
                assert not set(range(10, 14)) <= {begin for begin, _ in spans}, "the answer is in it"
            assert windows.question(window) == 0
        assert seen == {place for place, sign in enumerate(context) if sign != " "}
        assert holding >= 1

    def test_a_long_question_leaves_half(self, tokenizer: Any) -> None:
        windows = Windows(tokenizer, ["q" * 50], ["a b c"], [[]], None, 16)
        assert int(windows.batch([0]).inputs["token_type_ids"].sum()) > 1
        assert windows.batch([0]).lengths[0] <= 16
        with pytest.raises(TaskError, match="4 tokens leave no room"):
            Windows(tokenizer, ["q"], ["a"], [[]], None, 4)


def plain(model: Any, tokenizer: Any, question: str, context: str, longest: int) -> tuple[float, float, str]:
    """The best span's score, that of none, and its text, by trying them all."""
    found = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, parts = found.pop("offset_mapping")[0].tolist(), found.sequence_ids(0)
    with torch.no_grad():
        outputs = model(**found)
    start, end = outputs.start_logits[0].tolist(), outputs.end_logits[0].tolist()
    best = max(
        (start[one] + end[two], one, two)
        for one in range(len(parts))
        for two in range(one, min(len(parts), one + longest))
        if parts[one] == parts[two] == 1
    )
    return best[0], start[0] + end[0], context[offsets[best[1]][0] : offsets[best[2]][1]]


@pytest.mark.parametrize("without", [False, True])
def test_a_plain_loop_has_the_same_loss_and_scores(without: bool, tiny_bert: Path, tmp_path: Path) -> None:
    file = trials.jsonl(tmp_path / "rows.jsonl", rows(without=without))
    task = trials.own(file, "question_answering", answer_tokens=4)
    assert isinstance(task, QuestionAnswering)
    model, tokenizer = trials.loaded(tiny_bert, task)
    model.qa_outputs.weight.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    losses, exact = [], []
    for question, context, answers in zip(*task.data.columns("test"), task.data.answers("test"), strict=True):
        score, none, text = plain(model, tokenizer, question, context, 4)
        said = "" if without and none > score else text
        exact.append(said == (answers[0][0] if answers else ""))
        found = tokenizer(question, context, return_tensors="pt")
        places = [0, 0]
        if answers:
            first = answers[0][1]
            places = [found.char_to_token(0, first, 1), found.char_to_token(0, first + len(answers[0][0]) - 1, 1)]
        with torch.no_grad():
            outputs = model(**found, start_positions=torch.tensor(places[:1]), end_positions=torch.tensor(places[1:]))
        losses.append(float(outputs.loss))
    assert trials.loss(task, model, tokenizer, batch_size=1) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    quality = trials.alike_in_any_batch(task, model, tokenizer)
    assert quality.metrics["exact_match"] == pytest.approx(sum(exact) / len(exact))


def test_scores_of_windows_are_put_together(tiny_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "question_answering", stride=4, answer_tokens=4)
    model, tokenizer = trials.loaded(tiny_bert, task)
    assert isinstance(task, QuestionAnswering)
    assert len(task.encoded("test", tokenizer, 22)) > len(task.texts("test"))
    trials.alike_in_any_batch(task, model, tokenizer, 22)


def test_logits_that_are_no_numbers_are_wrong(tiny_bert: Path, tmp_path: Path) -> None:
    task = trials.own(trials.jsonl(tmp_path / "rows.jsonl", rows(without=True)), "question_answering")
    model, tokenizer = trials.loaded(tiny_bert, task)
    model.qa_outputs.bias.data.fill_(float("nan"))
    assert task.evaluate(model, tokenizer, batch_size=4, max_length=64).metrics == {"answer_f1": 0, "exact_match": 0}


class TestRecipes:
    def test_full_learns(self, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        budget = {"steps": 80, "batch_size": 8, "max_length": 64}
        task = trials.own(Path(table["data"]), "question_answering")
        assert isinstance(task, QuestionAnswering)
        *_, record, served = trials.run("full(lr=3e-3)", tiny_bert, table, tmp_path, budget=budget)
        assert record["quality"]["metrics"]["answer_f1"] > task.chance(None, 64).metrics["answer_f1"]
        assert {entry["phase"] for entry in served["latency"]} == {"forward"}

    @pytest.mark.parametrize(
        "text",
        ["lora(r=2) >> merge", "full + accumulate(2)", "full >> distill(layers=1)", "full >> torch_int8_dynamic"],
    )
    def test_runs(self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        trials.run(text, tiny_bert, table, tmp_path)

    @pytest.mark.parametrize("text", ["full + rdrop", "full + label_smoothing", "full + ensemble(2)", "full >> onnx"])
    def test_what_needs_all_logits_in_one_tensor_is_refused(
        self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        reasons = trials.refused(text, tiny_bert, table, tmp_path)
        assert any("a model of a question_answering task gives start_logits and end_logits" in each for each in reasons)

    @pytest.mark.parametrize("text", ["prompt(2)", "prefix(2)"])
    def test_nothing_can_be_put_before_a_text(
        self, text: str, tiny_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        reasons = trials.refused(text, tiny_bert, table, tmp_path)
        assert any("PEFT has no model for a question_answering task" in each for each in reasons)

    def test_pairs_need_a_pooler(self, tiny_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        (reason,) = trials.refused('pretrain("nsp") >> full', tiny_bert, table, tmp_path)
        assert 'which a model of a question_answering task lacks; use pretrain("mlm")' in reason
