"""Texts in splits, and passages of them."""

import re
import unicodedata

from bench.tasks.alike import comparable
from bench.tasks.base import hash_fraction, split_of
from bench.tasks.passages import PASSAGE, divide, passages

TEXTS = [f"text number {number}" for number in range(60)]


def test_a_text_is_in_one_split_whatever_else_there_is():
    whole, half = divide(TEXTS), divide(TEXTS[::-2])
    for split in ("train", "validation", "test"):
        assert set(half.texts[split]) == set(whole.texts[split]) & set(TEXTS[::-2])
    assert sum(map(len, whole.texts.values())) == 60


def test_equal_texts_count_once_and_order_does_not_matter():
    assert divide(TEXTS + TEXTS[:30]) == divide(TEXTS[::-1]) == divide(TEXTS)


def test_near_equal_texts_are_one_in_one_split():
    texts = [f"def function_{number}():\n    return 'é' + {number}\n" for number in range(60)]
    near = [
        changed
        for text in texts
        for changed in (
            text.replace("\n", "\r\n"),
            text.replace("    ", "\t\t\u00a0 \t "),
            unicodedata.normalize("NFD", text),
            f"\ufeff{text}",
            f"{text}\n\n",
        )
    ]
    data = divide([*near, *texts])
    assert data == divide(texts + near[::-1])
    numbers = [number for of in data.texts.values() for text in of for number in re.findall("function_([0-9]+)", text)]
    assert sorted(map(int, numbers)) == list(range(60)), "each once, in one split"
    assert {split: len(of) for split, of in data.texts.items()} == {
        split: len(of) for split, of in divide(texts).texts.items()
    }
    assert all(text in near or text in texts for of in data.texts.values() for text in of), "as they were written"
    counts = data.counts
    assert (counts["read"], counts["equal"], counts["near_equal"]) == (360, 0, 300)
    assert sum(counts[split] for split in data.texts) == 60
    assert divide(texts + texts[:7]).counts["equal"] == 7


def test_a_passage_is_in_one_split_though_texts_share_it():
    def preface(edition):
        return next(passages("".join(f"line {n} of the preface of edition {edition}\n" for n in range(99))))

    # As a text of its own, in other white space, it is in training.
    edition = next(number for number in range(99) if split_of(hash_fraction(comparable(preface(number)))) == "train")
    alone = preface(edition).replace(" ", "  ") + "\n"
    books = [preface(edition) + f"and then book {number} begins\n" * 30 for number in range(60)]
    for texts in (books, [*books[::-1], alone]):
        data = divide(texts)
        forms = {
            split: {" ".join(piece.split()) for text in of for piece in passages(text)}
            for split, of in data.texts.items()
        }
        assert not forms["test"] & (forms["train"] | forms["validation"])
        assert not forms["validation"] & forms["train"]
        assert all(forms.values())
        assert data.counts["in_two_splits"] == 2
        assert not any("preface" in form for split in ("validation", "test") for form in forms[split])


def test_a_text_of_which_nothing_can_be_seen_is_none():
    assert divide([*TEXTS, "\n\n", "\ufeff", ""]) == divide(TEXTS)
    assert divide([*TEXTS, "\n\n", " "]).counts == divide(TEXTS).counts


def test_the_fingerprint_is_of_every_text_and_split():
    texts = TEXTS
    changed = [f"{text}!" if number == 20 else text for number, text in enumerate(texts)]
    assert len({divide(one).fingerprint for one in (texts, texts[1:], changed)}) == 3


def test_passages_put_together_are_the_text_and_end_at_lines():
    lines = "".join(f"line {number} " + "x" * (number % 90) + "\n" for number in range(300))
    pieces = list(passages(lines))
    assert "".join(pieces) == lines
    assert len(pieces) > 5
    assert all(piece.endswith("\n") and PASSAGE <= len(piece) < PASSAGE + 110 for piece in pieces[:-1])


def test_a_line_without_end_is_cut():
    assert [len(piece) for piece in passages("y" * (5 * PASSAGE))] == [2 * PASSAGE, 2 * PASSAGE, PASSAGE]


def test_held_out_texts_are_cut_and_some_of_all_are_taken(monkeypatch):
    monkeypatch.setattr("bench.tasks.passages.HELD_OUT", 40_000)
    files = ["".join(f"file {name}, line {number}\n" for number in range(1500)) for name in range(40)]
    data = divide(files)
    test = "".join(data.texts["test"])
    assert 40_000 <= len(test) < 40_000 + 2 * PASSAGE
    held_out = {name for name in range(40) if f"file {name}," in test}
    train = {name for name in range(40) if any(text.startswith(f"file {name},") for text in data.texts["train"])}
    assert len(held_out) > 4
    assert not held_out & train
    assert all(text in files for text in data.texts["train"]), "whole"
