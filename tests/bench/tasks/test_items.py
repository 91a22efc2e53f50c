from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.tasks.items import Choice, DividedItems, Found, Item
from bench.tasks.items import divide as divide_items
from bench.tasks.table import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Row = tuple[str, str]


def divide(rows: Iterable[Row]) -> DividedItems:
    return divide_items((None, Item((text,), label)) for text, label in rows)


def rows_of(data: DividedItems) -> dict[str, str]:
    return {
        text: answer for split in SPLITS for text, answer in zip(data.texts[split], data.answers(split), strict=True)
    }


def some(count: int = 200) -> list[Row]:
    draw = random.Random(0)
    return [(f"text {n} " + "x" * draw.randrange(1, 40), "abc"[n % 3]) for n in range(count)]


class TestDivide:
    def test_splits_are_disjoint_whole_and_as_large_as_said(self) -> None:
        rows = some(3000)
        data = divide(rows)
        texts = [text for split in SPLITS for text in data.texts[split]]
        assert sorted(texts) == sorted(text for text, _ in rows)
        for split, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            assert len(data.texts[split]) / len(rows) == pytest.approx(share, abs=0.03)
        assert rows_of(data) == dict(rows)

    def test_an_item_stays_in_its_split_whatever_else_there_is(self) -> None:
        few, many = divide(some(50)), divide(some(500))
        for split in SPLITS:
            assert set(few.texts[split]) <= set(many.texts[split])

    def test_the_split_is_the_same_on_every_machine_and_for_ever(self) -> None:
        data = divide([(word, "a") for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")])
        assert data.texts == {
            "train": ("four", "seven", "eight", "five", "two", "six"),
            "validation": ("one",),
            "test": ("three",),
        }

    def test_order_and_repetition_of_rows_do_not_matter(self) -> None:
        rows = some()
        assert divide(rows) == divide(rows[::-1] + rows[:20])

    def test_a_text_with_two_labels_is_left_out(self) -> None:
        rows = [*some(), ("both", "a"), ("both", "b"), ("both", "a")]
        assert divide(rows) == divide(rows[::-1]) == divide(some())

    def test_near_equal_texts_are_one_item_in_one_split(self) -> None:
        rows = [(f"café number {n} was {'good' if n % 2 else 'bad'}", "ab"[n % 2]) for n in range(60)]
        near = [
            (change(text), label)
            for text, label in rows
            for change in (
                lambda text: text.replace(" ", "  "),
                lambda text: text.replace(" was", "\r\nwas"),
                lambda text: unicodedata.normalize("NFD", text),
                lambda text: text.replace("number", "num\u00adber"),
                lambda text: f"\ufeff{text}\u200b",
                lambda text: text.replace(" ", "\u00a0"),
            )
        ]
        data = divide([*near, *rows])
        assert data == divide(rows + near[::-1])
        assert divide(near).texts["test"] != data.texts["test"], "the plain text is the item, where it is there"
        plain = divide(rows)
        assert (data.texts, data.fingerprint) == (plain.texts, plain.fingerprint)
        # By words alone, which is all that differs between these texts.
        seen = {
            split: {tuple(re.findall(r"[a-zé0-9]+", unicodedata.normalize("NFC", text))) for text in data.texts[split]}
            for split in SPLITS
        }
        assert sum(map(len, seen.values())) == sum(map(len, data.texts.values())) == 60
        assert not seen["train"] & seen["test"]
        assert set(divide(near).texts["train"]) <= {text for text, _ in near}, "as they were written"
        assert {split: len(of) for split, of in divide(near).texts.items()} == {
            split: len(of) for split, of in data.texts.items()
        }

    def test_near_equal_texts_with_two_labels_are_left_out(self) -> None:
        rows = [*some(), ("both  of", "a"), ("both of", "b"), ("both\u00a0of", "a"), ("both of", "b")]
        assert divide(rows) == divide(rows[::-1]) == divide(some())

    def test_case_is_a_difference(self) -> None:
        data = divide([("Polish", "a"), ("polish", "b")])
        assert sum(map(len, data.texts.values())) == 2

    def test_every_row_is_counted_once(self) -> None:
        rows = [
            *some(),
            *some(20),
            ("x", "a"),
            ("x ", "a"),
            (" x", "a"),
            ("x ", "a"),
            ("y", "a"),
            ("y\n", "b"),
            ("y", "a"),
        ]
        counts = divide(rows).counts
        left_out = {"equal": 21, "near_equal": 2, "conflicting": 3}
        assert {name: counts[name] for name in left_out} == left_out
        assert counts["read"] == 227 == sum(left_out.values()) + sum(counts[split] for split in SPLITS)
        assert divide(rows[::-1]).counts == counts

    @pytest.mark.parametrize("change", [("text 7", "a"), ("new", "a")])
    def test_the_fingerprint_covers_labels_and_texts(self, change: Row) -> None:
        rows = [(f"text {n}", "abc"[n % 3]) for n in range(50)]
        changed = [*(row for row in rows if row[0] != change[0]), change]
        assert divide(changed).fingerprint != divide(rows).fingerprint


def of(split: Split | None, *texts: str, answer: object = "a") -> list[Found]:
    return [(split, Item((text,), answer)) for text in texts]


class TestOfficial:
    def test_splits_stay_as_they_are_and_leaks_are_left_out_and_counted(self) -> None:
        data = divide_items(
            [
                *of("train", "one", "two", "three  is", "one", "four"),
                *of("validation", "two", "five"),
                *of("test", "three is", "five"),
            ]
        )
        assert sorted(data.texts["train"]) == ["four", "one", "one"], "equal items of a split stay"
        assert sorted(data.texts["validation"]) == ["two"]
        assert sorted(data.texts["test"]) == ["five", "three is"]
        assert data.counts["in_two_splits"] == 3
        assert data.counts["read"] == 9

    def test_without_validation_it_is_a_tenth_of_training(self) -> None:
        found = [*of("train", *(f"text {n}" for n in range(2000))), *of("test", "other")]
        data = divide_items(found)
        assert len(data.texts["validation"]) / 2000 == pytest.approx(0.1, abs=0.03)
        assert not set(data.texts["validation"]) & set(data.texts["train"])

    def test_the_order_of_rows_does_not_matter(self) -> None:
        found = [*of("train", "a", "b", "c"), *of("validation", "d"), *of("test", "e", "f")]
        assert divide_items(found) == divide_items(found[::-1])
        assert divide_items(found).texts == divide_items(found[::-1]).texts

    def test_the_split_is_in_the_fingerprint(self) -> None:
        rows = [*of("validation", "d"), *of("test", "e")]
        assert divide_items([*of("train", "a", "b"), *rows]) != divide_items(
            [*of("train", "a"), *of("test", "b"), *rows]
        )


class TestChoice:
    def test_few_shot_counts_the_items_of_each_answer_or_all(self) -> None:
        found: list[Found] = [(None, Item((text,), label)) for text, label in some(300)]
        for by_answer, expected in ((True, {'"a"': 4, '"b"': 4, '"c"': 4}), (False, None)):
            data = divide_items(found, Choice(few_shot=4, by_answer=by_answer))
            assert data.distinct("train").total() == (12 if by_answer else 4)
            assert expected in (None, data.distinct("train"))
            assert data.texts["test"] == divide_items(found).texts["test"]

    def test_max_items_takes_the_first_of_each_split(self) -> None:
        found: list[Found] = [(None, Item((text,), label)) for text, label in some(300)]
        data, all_items = divide_items(found, Choice(max_items=5)), divide_items(found)
        assert all(tuple(data.texts[split]) == tuple(all_items.texts[split])[:5] for split in SPLITS)

    def test_near_duplicates_of_test_items_are_taken_out_of_training(self) -> None:
        words = "the quick brown fox jumps over the lazy dog while seven wizards watch them from an old stone bridge"
        found = [*of("test", words), *of("train", words + " today", "nothing like it")]
        data = divide_items(found, Choice(near_duplicates=0.8))
        assert tuple(data.texts["train"]) == ("nothing like it",)
        assert data.counts["near_duplicates"] == 1
        assert len(divide_items(found).texts["train"]) == 2


class TestKept:
    def test_what_is_kept_is_the_same_and_is_not_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path))
        rows: list[Found] = [(None, Item((text, f"{text}?"), {"label": label})) for text, label in some(20_000)]
        first = divide_items(iter(rows), kept="items/x.arrow")
        again = divide_items(iter(()), kept="items/x.arrow")
        plain = divide_items(rows)
        for data in (first, again):
            assert (data.fingerprint, data.counts, data.texts) == (plain.fingerprint, plain.counts, plain.texts)
            assert data.column("train", 1)[7] == data.texts["train"][7] + "?"
            assert data.answers("test") == plain.answers("test")
        assert [file.name for file in (tmp_path / "items").iterdir()] == ["x.arrow"]

    def test_a_damaged_file_is_made_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path))
        (tmp_path / "x.arrow").write_bytes(b"ARROW1 and no more")
        rows: list[Found] = [(None, Item((text,), label)) for text, label in some()]
        assert divide_items(rows, kept="x.arrow") == divide_items(rows)

    def test_a_cache_that_cannot_be_written_is_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "file"))
        rows: list[Found] = [(None, Item((text,), label)) for text, label in some()]
        assert divide_items(rows, kept="x.arrow") == divide_items(rows)
