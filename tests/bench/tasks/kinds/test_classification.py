from __future__ import annotations

import csv
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.tasks.alike import MISSING
from bench.tasks.base import Split, TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification, ClassificationTable, scores

Row = tuple[str, str]


class Rows(Classification):
    """A task on given rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__()
        self.name = "rows"
        self.rows = list(rows)

    def read(self) -> Iterable[Item]:
        return (Item((text,), label) for text, label in self.rows)


def some(count: int = 200) -> list[Row]:
    draw = random.Random(0)
    return [(f"text {n} " + "x" * draw.randrange(1, 40), "abc"[n % 3]) for n in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.fixture
def task() -> Rows:
    return Rows(some())


def test_labels_are_sorted_unless_their_order_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\none,b\ntwo,c\nthree,a\n")
    task = table(tmp_path / "rows.csv")
    assert task.labels == ("a", "b", "c")
    assert [task.labels[target] for target in task.targets("test")] == ["a"]
    assert table(tmp_path / "rows.csv", label_order=["c", "b", "a"]).labels == ("c", "b", "a")
    (problem,) = table(tmp_path / "rows.csv", label_order=["c", "bb"]).problems()
    assert "line 2: `label` is `b`, which `label_order` has not; did you mean `bb`?" in problem


class TestProblems:
    def test_none(self, task: Rows) -> None:
        assert task.problems() == []

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([(f"text {n}", "a") for n in range(100)], "all items have one label, `a`"),
            ([("one", "a"), ("two", "b")], "none falls into test, which gets about 20 %"),
            (
                [("three", "a"), ("one", "b")],
                "2 different items are too few: none falls into train, which gets about 70 %",
            ),
            ([("one", "a"), ("one", "b")], "every text has more than one label"),
            (
                [(f"text {n}", f"id{n}") for n in range(60)],
                "60 items have 60 labels, such as `id0` and `id1`: more than one for two items are numbers or names",
            ),
            ([(f"text {n % 50}", str(n % 50 // 2 * (n % 50 > 20))) for n in range(300)], ""),
            (
                [(f"text {n % 50}", str(n % 50 % 26)) for n in range(300)],
                "50 items have 26 labels, such as `0` and `1`",
            ),
            (
                [(f"text {n}", f"{n % 10}.{n % 7 + 1}") for n in range(200)],
                "200 of 200 labels are numbers with a fraction",
            ),
            ([(f"text {n}", ["0.5", "1.5"][n % 2]) for n in range(50)], "write classes as words, as in `v0.5`"),
            (
                [(f"text {n}", f"{n * 37 % 100 / 10:g}") for n in range(200)],
                "180 of 200 labels are numbers with a fraction",
            ),
            ([(f"text {n}", f"{n % 10 / 2:g}") for n in range(200)], ""),  # half stars
        ],
    )
    def test_too_little(self, rows: list[Row], message: str) -> None:
        problems = Rows(rows).problems()
        if not message:
            assert problems == []
            return
        (problem,) = problems
        assert problem.startswith("rows: ")
        assert message in problem

    def test_two_classes_are_never_too_many(self) -> None:
        assert Rows([("four", "a"), ("three", "b")]).problems() == []


class TestBatches:
    def test_one_pass_in_order(self, task: Rows, tokenizer: Any) -> None:
        batches = list(task.batches("test", tokenizer, batch_size=8, max_length=32))
        items = [item for batch in batches for item in batch.items]
        assert items == list(range(len(task.texts("test"))))
        assert [batch.samples for batch in batches[:-1]] == [8] * (len(batches) - 1)
        assert tuple(label for batch in batches for label in batch.labels.tolist()) == task.targets("test")

    def test_padding_and_counts(self, task: Rows, tokenizer: Any) -> None:
        import torch

        for batch in itertools.islice(
            task.batches("train", tokenizer, batch_size=8, max_length=32, generator=torch.Generator()), 30
        ):
            assert set(batch.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
            assert {tensor.dtype for tensor in (*batch.inputs.values(), batch.labels)} == {torch.int64}
            ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
            assert batch.lengths == tuple(mask.sum(1).tolist())
            assert ids.shape == mask.shape == (8, max(batch.lengths))
            assert batch.weight == 8
            for row, item, length in zip(ids.tolist(), batch.items, batch.lengths, strict=True):
                expected = tokenizer(task.texts("train")[item], truncation=True, max_length=32)["input_ids"]
                assert row == expected + [tokenizer.pad_token_id] * (len(row) - length)
        assert max(batch.lengths) == 32, "long ones are cut"

    def test_every_epoch_has_every_item_once_in_a_new_order(self, task: Rows, tokenizer: Any) -> None:
        import torch

        size = len(task.texts("train"))
        stream = task.batches(
            "train", tokenizer, batch_size=16, max_length=16, generator=torch.Generator().manual_seed(3)
        )
        batches = list(itertools.islice(stream, 3 * size // 16 + 1))
        assert {batch.samples for batch in batches} == {16}, "also over the end of an epoch"
        items = [item for batch in batches for item in batch.items]
        epochs = [items[start : start + size] for start in (0, size, 2 * size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]

    def test_the_seed_decides_the_order(self, task: Rows, tokenizer: Any) -> None:
        import torch

        def order(seed: int) -> list[tuple[int, ...]]:
            generator = torch.Generator().manual_seed(seed)
            stream = task.batches("train", tokenizer, batch_size=4, max_length=16, generator=generator)
            return [batch.items for batch in itertools.islice(stream, 80)]

        assert order(1) == order(1) != order(2)

    def test_fewer_items_than_a_batch(self, tokenizer: Any) -> None:
        import torch

        task = Rows(some(20))
        size = len(task.texts("train"))
        stream = task.batches("train", tokenizer, batch_size=3 * size, max_length=16, generator=torch.Generator())
        assert Counter(next(stream).items) == dict.fromkeys(range(size), 3)

    def test_an_empty_split_is_an_error_and_not_an_endless_loop(self, tokenizer: Any) -> None:
        import torch

        task = Rows([("one", "a"), ("two", "b")])
        with pytest.raises(TaskError, match="rows: there are no test texts"):
            next(task.batches("test", tokenizer, batch_size=4, max_length=16, generator=torch.Generator()))

    def test_texts_are_tokenized_once(self, task: Rows, tokenizer: Any) -> None:
        assert task.encoded("train", tokenizer, 16) is task.encoded("train", tokenizer, 16)
        assert task.encoded("train", tokenizer, 16) is not task.encoded("train", tokenizer, 17)

    def test_a_tokenizer_without_padding_and_special_tokens(self) -> None:
        def words(texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[5] * (len(text.split()) - 1) for text in texts]}

        class Bare:
            pad_token_id = None
            eos_token_id = 2
            __call__ = staticmethod(words)

        task = Rows([("two", "a"), ("three words alone", "b"), ("six", "a")])
        assert task.texts("train") == ("three words alone", "two", "six")
        (batch,) = task.batches("train", Bare(), batch_size=4, max_length=9)
        assert batch.inputs["input_ids"].tolist() == [[5, 5], [2, 2], [2, 2]]
        assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0], [1, 0]]
        assert batch.lengths == (2, 1, 1)


class TestScore:
    def test_macro_f1_by_hand(self) -> None:
        # a: 2 of 3 found, 1 false → 2·2/(3+3); b: 1 of 2, 1 false → 2·1/(2+2); c: never true, 1 false → 0
        truth = [0, 0, 0, 1, 1]
        guesses = [0, 0, 1, 1, 0]
        assert macro_f1(truth, guesses) == pytest.approx((4 / 6 + 2 / 4) / 2)
        assert macro_f1([*truth, 1], [*guesses, 2]) == pytest.approx((4 / 6 + 2 / 5 + 0) / 3)
        assert macro_f1(truth, truth) == 1
        assert macro_f1([0, 1], [0, -1]) == 0.5

    def test_macro_f1_is_sklearns(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        draw = random.Random(0)
        for _ in range(20):
            truth, guesses = [[draw.randrange(6) for _ in range(12)] for _ in range(2)]
            assert macro_f1(truth, guesses) == pytest.approx(
                metrics.f1_score(truth, guesses, average="macro", zero_division=0)
            )

    def test_criterion_is_the_mean_over_items_in_float32(self, task: Rows, tokenizer: Any) -> None:
        import torch

        batch = next(task.batches("test", tokenizer, batch_size=4, max_length=16))
        logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
        loss = task.criterion(SimpleNamespace(logits=logits), batch)
        shares = logits.float().softmax(-1)
        expected = -sum(shares[row, label].log() for row, label in enumerate(batch.labels)) / 4
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(float(expected))

    @pytest.mark.parametrize("split", ["test", "validation"])
    def test_evaluate_sees_its_split_alone_and_answers_in_its_order(
        self, split: Split, task: Rows, tokenizer: Any
    ) -> None:
        import torch

        class Knowing(torch.nn.Module):
            """Finds the label of each text, but for every fifth; and notes what it has seen."""

            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))
                self.seen: list[str] = []

            def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
                texts = tokenizer.batch_decode(input_ids, skip_special_tokens=True)
                assert not torch.is_grad_enabled()
                self.seen += [text.replace(" ", "") for text in texts]
                numbers = [int("".join(filter(str.isdigit, text))) for text in texts]
                logits = torch.eye(3)[[number % 3 if number % 5 else (number + 1) % 3 for number in numbers]]
                return SimpleNamespace(logits=logits)

        model = Knowing()
        quality = task.evaluate(model, tokenizer, batch_size=7, max_length=64, split=split)
        train = {text.replace(" ", "") for text in task.texts("train")}
        assert sorted(model.seen) == sorted(text.replace(" ", "") for text in task.texts(split))
        assert not train & set(model.seen)
        right = [float(int(text.split()[1]) % 5 != 0) for text in task.texts(split)]
        assert list(quality.correct) == right
        assert quality.metrics["accuracy"] == pytest.approx(sum(right) / len(right))
        assert quality.metrics["macro_f1"] == pytest.approx(macro_f1(task.targets(split), quality.predictions))

    def test_a_model_that_fell_apart_is_never_right(self, task: Rows, tokenizer: Any) -> None:
        import torch

        class Broken(torch.nn.Linear):
            def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
                return SimpleNamespace(logits=torch.full((len(input_ids), 3), torch.nan))

        quality = task.evaluate(Broken(1, 1), tokenizer, batch_size=8, max_length=16)
        assert {quality.metrics[name] for name in ("accuracy", "macro_f1", "matthews")} == {0}

    @pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
    def test_a_real_model_scores_the_same_whatever_the_batch(self, name: str, request: pytest.FixtureRequest) -> None:
        from bench.models.sources.directory import Directory

        task = Rows(some())
        model, tokenizer = Directory(request.getfixturevalue(name)).load(*task.model_options())
        model.eval()
        scores = [task.evaluate(model, tokenizer, batch_size=size, max_length=48) for size in (1, 16)]
        assert scores[0].predictions == scores[1].predictions
        assert scores[0].correct == scores[1].correct
        assert scores[0].metrics == pytest.approx(scores[1].metrics)
        assert len(scores[0].predictions) == len(task.texts("test"))


def read(task: Classification) -> list[Row]:
    return [(*item.texts, item.answer) for _, item in task.found()]  # type: ignore[misc]


def macro_f1(truth: Any, guesses: Any) -> float:
    import numpy

    return scores(truth, guesses, numpy.eye(9)[list(guesses)], "macro_f1")["macro_f1"].value


def table(file: Path, **options: Any) -> Classification:
    return Classification(ClassificationTable(kind="classification", data=file.name, **options), file.parent)


class TestTable:
    def test_csv_and_jsonl_give_the_same(self, tmp_path: Path) -> None:
        rows = [*some(), ('with "quotes", commas\nand a line break', "a"), ("ünï\u2028cöde 🙂", "b")]
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as stream:
            csv.writer(stream).writerows(
                [("id", "label", "text"), *((n, label, text) for n, (text, label) in enumerate(rows))]
            )
        lines = [json.dumps({"label": label, "text": text}, ensure_ascii=False) for text, label in rows]
        (tmp_path / "rows.jsonl").write_text("\r\n".join(lines) + "\n\n", encoding="utf-8", newline="")
        tasks = [table(tmp_path / name) for name in ("rows.csv", "rows.jsonl")]
        assert [task.problems() for task in tasks] == [[], []]
        assert tasks[0].data == tasks[1].data == Rows(rows).data

    def test_other_columns_and_labels_that_are_numbers(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"body": " one ", "stars": 2}\n{"body": "two", "stars": true}\n{"body": "3", "stars": " x"}\n')
        assert read(table(file, text="body", label="stars")) == [
            ("one", "2"),
            ("two", "true"),
            ("3", "x"),
        ]

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            ([1, "1", 1.0, "1.0", "1e0", 0, "0", 0.0, "-0.0", -0.0], ("0", "1")),
            ([True, "True", "TRUE", "true", False, "False", "FALSE"], ("false", "true")),
            (["2.0", 3, "3.00", "2", "good", 10, "10"], ("10", "2", "3", "good")),
            (["none", "na", "Null", "nan?"], ("Null", "na", "nan?", "none")),
            (["01", "02", "10"], ("01", "02", "10")),
            ([" pos", "pos ", "neg", "\u00a0neg"], ("neg", "pos")),
        ],
    )
    def test_one_value_is_one_class_in_both_kinds_of_file(
        self, labels: list[Any], classes: tuple[str, ...], tmp_path: Path
    ) -> None:
        rows = [(f"text {n} of many", labels[n % len(labels)]) for n in range(120)]
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows])
        tasks = [table(tmp_path / name) for name in ("rows.csv", "rows.jsonl")]
        for task in tasks:
            assert task.problems() == []
            assert task.labels == classes
            assert task.model_options()[1]["id2label"] == dict(enumerate(classes))
        assert tasks[0].fingerprint() == tasks[1].fingerprint()

    def test_labels_written_otherwise_are_counted(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.csv"
        file.write_text("text,label\n" + "".join(f"text {n},{['1', '0', '1.0', 'TRUE'][n % 4]}\n" for n in range(80)))
        (problem,) = table(file).problems()
        assert "1 (line 2) and true (line 5) differ" in problem
        file.write_text("text,label\n" + "".join(f"text {n},{['1', '0', '1.0', '2'][n % 4]}\n" for n in range(80)))
        assert table(file).counts()["respelled"] == 20
        assert table(file).counts()["read"] == 80

    @pytest.mark.parametrize("marker", sorted(MISSING - {""}))
    @pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
    def test_what_marks_a_missing_value_is_no_class(self, marker: str, name: str, tmp_path: Path) -> None:
        rows = [(f"text {n}", "ab"[n % 2]) for n in range(50)] + [("odd", f" {marker}")]
        lines = [f"{text},{label}" for text, label in rows]
        if name.endswith("l"):
            lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / name).write_text("\n".join([*(["text,label"] * name.endswith("csv")), *lines]))
        (problem,) = table(tmp_path / name).problems()
        assert f"line {len(rows) + name.endswith('csv')}: `label` is `{marker}`, which marks a missing value" in problem
        assert "if it is the name of a class, give that another name" in problem

    def test_a_text_may_be_any_words(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.csv"
        file.write_text("text,label\nNone,a\nNaN,b\nnull,a\n1,b\n")
        assert [text for text, _ in read(table(file))] == ["None", "NaN", "null", "1"]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("rows.csv", "other,text,label,other\nx,one,a,y\nx,two,b,y\n"),
            ("rows.csv", "Label,text,label,TEXT\nx,one,a,y\nx,two,b,y\n"),
            ("rows.csv", "text,\ufefflabel\u200b\none,a\ntwo,b\n"),
            ("rows.jsonl", '{"text": "one", "label": "a", "x": 1, "x": 2}\n{"text": "two", "label": "b"}\n'),
            (
                "rows.jsonl",
                '{"text": "one", "label": "a", "x": {"label": 1, "label": 2}}\n{"label": "b", "text": "two"}\n',
            ),
            ("rows.jsonl", '{"text": "one", "Label": 1, "label": "a"}\n{"text": "two", "label": "b", "LABEL": 1}\n'),
        ],
    )
    def test_other_columns_do_not_matter(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert read(table(tmp_path / name)) == [("one", "a"), ("two", "b")]

    def test_a_column_is_found_in_any_unicode_form(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("texte,cate\u0301gorie\nun,a\n", encoding="utf-8")
        assert read(table(tmp_path / "rows.csv", text="texte", label="catégorie")) == [("un", "a")]

    def test_text_and_label_are_two_columns(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("text,label\none,a\n")
        (problem,) = table(tmp_path / "rows.csv", text="label").problems()
        assert "column `label` is named twice, as for a text and its label; name two columns" in problem

    def test_huge_fields(self, tmp_path: Path) -> None:
        before = csv.field_size_limit()
        file = tmp_path / "rows.csv"
        file.write_text(f"text,label\n{'x' * 300_000},a\n")
        assert [len(text) for text, _ in read(table(file))] == [300_000]
        assert csv.field_size_limit() == before

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (
                "rows.csv",
                b"text,label\none,a\ntwo,\n",
                "line 3: `label` is empty; fill it in or take the row out",
            ),
            ("rows.csv", b"text,label\n  ,a\n", "line 2: `text` is empty"),
            ("rows.csv", b"text,labels\none,a\n", "it has no column `label`; did you mean `labels`?"),
            (
                "rows.csv",
                b"text;label\none;a\n",
                "no column `text`; its columns look separated by semicolons, commas are",
            ),
            (
                "rows.csv",
                b"text,label\none, two,a\n",
                "line 2 has 3 cells and the header has 2; a text that holds commas",
            ),
            ("rows.csv", b'text,label\n"one,a\n', "line 2: unexpected end of data"),
            ("rows.csv", b"text,label\n", "it has no rows"),
            ("rows.csv", b"", "it has no header row; its first line names the columns, as in text,label"),
            (
                "rows.csv",
                b"text,label\none,a\ncaf\xe9,b\n",
                "line 3 is not UTF-8 (byte 0xe9); save it as UTF-8",
            ),
            (
                "rows.jsonl",
                b'{"text": "one", "label": "a"}\n{"text": \n',
                "line 2 is not JSON: Expecting value",
            ),
            ("rows.jsonl", b"[" * 200_000, "line 1 is not JSON"),
            ("rows.jsonl", b'["one", "a"]\n', 'line 1 is not an object, as in {"text": ..., "label": ...}'),
            (
                "rows.jsonl",
                b'\n{"text": "one", "lable": "a"}',
                "line 2 has no `label`; did you mean `lable`?",
            ),
            ("rows.jsonl", b'{"text": "one", "label": null}', "line 1: `label` is empty"),
            (
                "rows.jsonl",
                b'{"text": "one", "label": ["a"]}',
                "line 1: `label` is one class for each text, found ['a']; name a column of those",
            ),
            (
                "rows.jsonl",
                b'{"text": "one", "label": {"a": 1}}',
                "line 1: `label` is one class for each text, found {'a': 1}",
            ),
            ("rows.jsonl", b'{"text": "one", "label": NaN}', "line 1: `label` is `NaN`, which marks a missing value"),
            ("rows.jsonl", b'{"text": NaN, "label": "a"}', "line 1: `text` is text, found nan"),
            ("rows.jsonl", b'{"text": "one", "label": "a"}\n{"text": "two", "label": ""}', "line 2: `label` is empty"),
            ("rows.csv", "text,label\n\u200b\ufeff,a\n".encode(), "line 2: `text` is empty"),
            ("rows.csv", "text,label\none,\u00ad\n".encode(), "line 2: `label` is empty"),
            (
                "rows.csv",
                b"text,label,label\none,a,b\n",
                "line 1: `label` is there 2 times, in places 2 and 3; rename or remove",
            ),
            ("rows.csv", b"text,label, label \none,a,b\n", "line 1: `label` is there 2 times"),
            ("rows.csv", "text,label,la\u00adbel\none,a,b\n".encode(), "line 1: `label` is there 2 times"),
            ("rows.csv", b"text,text,label\none,a,b\n", "line 1: `text` is there 2 times, in places 1 and 2"),
            (
                "rows.jsonl",
                b'{"text": "one", "label": "a"}\n{"text": "odd", "label": "pos", "label": "neg"}',
                "line 2: `label` is there 2 times, in places 2 and 3",
            ),
            ("rows.jsonl", b'{"text": "one", "text": "one", "label": "a"}', "line 1: `text` is there 2 times"),
            (
                "rows.csv",
                b"text,label\none,Pos\ntwo,neg\nthree,pos\n",
                "`label`: Pos (line 2) and pos (line 4) differ in case",
            ),
            (
                "rows.jsonl",
                '{"text": "one", "label": "café"}\n{"text": "two", "label": "cafe\u0301"}'.encode(),
                "`label`: 'caf\\xe9' (line 1) and 'cafe\\u0301' (line 2) differ in case, white space, Unicode form",
            ),
            ("rows.csv", b"text,label\none,007\ntwo,7\n", "`label`: 007 (line 2) and 7 (line 3) differ"),
            (
                "rows.jsonl",
                b'{"text": "one", "label": true}\n{"text": "two", "label": 1}',
                "true (line 1) and 1 (line 2) differ",
            ),
            ("rows.jsonl", b'{"text": 5, "label": "a"}', "line 1: `text` is text, found 5"),
            (
                "rows.jsonl",
                b'{"text": "\\ud800", "label": "a"}',
                "line 1: `text` holds half of a surrogate pair",
            ),
            ("rows.jsonl", b"\n\n", "it has no rows"),
            ("rows.parquet", b"PAR1", "it is not a Parquet file, or is damaged or cut short"),
            ("rows.xlsx", b"PK", "files of kind `.xlsx` are not read; give it as .csv, .tsv, .jsonl, .parquet, .arrow"),
        ],
    )
    def test_faults(self, name: str, content: bytes, message: str, tmp_path: Path) -> None:
        file = tmp_path / name
        file.write_bytes(content)
        (problem,) = table(file).problems()
        assert problem.startswith(f"{file}: ")
        assert message in problem
        with pytest.raises(TaskError):
            table(file).fingerprint()

    def test_one_class_only(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.csv"
        file.write_text("text,label\n" + "".join(f"text {n},a\n" for n in range(50)))
        assert table(file).problems() == ["rows: all items have one label, `a`; two are needed"]

    def test_a_missing_file_and_one_that_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "reviews.csv").touch()
        (tmp_path / "folder.csv").mkdir()
        assert table(tmp_path / "review.csv").problems() == [
            f"{tmp_path / 'review.csv'}: no such file; did you mean `reviews.csv`?"
        ]
        (problem,) = table(tmp_path / "folder.csv").problems()
        assert "it is a folder that datasets' save_to_disk did not write" in problem


def test_chance_is_the_most_frequent_class_of_training_on_the_test_items(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Rows(some())
    targets: dict[Split, tuple[int, ...]] = {
        "train": (2, 1, 1, 2, 0),
        "validation": (),
        "test": (0, 1, 1, 2, 2, 2, 2, 2),
    }
    monkeypatch.setattr(Rows, "targets", lambda self, split: targets[split])
    chance = task.chance(None, 16)
    # Classes 1 and 2 are as frequent, and the first is guessed: two of eight are right; F1 is 2 · 2 / (8 + 2) for it, 0 for two.
    assert chance.metrics["accuracy"] == 0.25
    assert chance.metrics["macro_f1"] == pytest.approx(0.4 / 3)
