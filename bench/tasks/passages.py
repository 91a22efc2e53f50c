"""Texts divided into splits, and cut into passages where they are held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bench.tasks import items
from bench.tasks.alike import comparable, representative
from bench.tasks.base import Split, hash_fraction
from bench.tasks.items import Choice, Found, Item

PASSAGE = 2_000
"""Characters of a passage, about."""

HELD_OUT = 200_000
"""Bytes of text, about, in each of the validation and test splits: every stage scores all of the test split."""


@dataclass(frozen=True)
class DividedPassages:
    """Texts in their splits. Order and fingerprint depend on the set of texts alone.

    ``counts`` says what became of the texts, as :meth:`bench.tasks.base.Task.counts` does.
    """

    texts: Mapping[Split, tuple[str, ...]]
    fingerprint: str
    counts: Mapping[str, int] = field(default_factory=dict, compare=False)


def divide(found: Iterable[str | Found], choice: Choice | None = None) -> DividedPassages:
    """Put whole texts into splits as :func:`bench.tasks.items.divide` does, so that no text is in two; the same ones count once.

    Of validation and test, each text is cut into passages, and where there are no official splits, some 200 kB of them are
    taken, by their hash: from all texts rather than all of a few. A passage that a training text has too is not taken for
    either, nor one of validation for testing.
    """
    given = (text if isinstance(text, tuple) else (None, Item((text,), None)) for text in found)
    data = items.divide(((split, item) for split, item in given if comparable(item.texts[0])), choice)
    counts, official = Counter(data.counts), data.official
    texts: dict[Split, list[str]] = {split: list(of) for split, of in data.texts.items()}
    elsewhere = {comparable(piece) for text in texts["train"] for piece in passages(text)}
    held_out: tuple[Split, ...] = ("validation", "test")
    for split in held_out:
        pieces = _by_form(piece for text in texts[split] for piece in passages(text))
        counts["in_two_splits"] += len(pieces.keys() & elsewhere)
        new = sorted((hash_fraction(form), representative(of)) for form, of in pieces.items() if form not in elsewhere)
        elsewhere |= pieces.keys()
        taken = (piece for _, piece in new)
        texts[split] = list(taken if official else _first_bytes(taken, HELD_OUT))
    digest = hashlib.sha256()
    for split, of in texts.items():
        for text in of:
            digest.update(json.dumps([text, split]).encode("ascii"))
    counts.update({split: len(of) - counts[split] for split, of in texts.items()})
    return DividedPassages({split: tuple(of) for split, of in texts.items()}, digest.hexdigest(), counts)


def _by_form(texts: Iterable[str]) -> dict[str, Counter[str]]:
    """The texts of each form, and how often each occurs; those are left out of which nothing can be seen."""
    same: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        if form := comparable(text):
            same[form][text] += 1
    return same


def passages(text: str) -> Iterator[str]:
    """`text` cut at ends of lines into pieces of 2,000 characters or a little more; put together, they are the text."""
    start = 0
    while start < len(text):
        newline = text.find("\n", start + PASSAGE - 1, start + 2 * PASSAGE)
        end = newline + 1 if newline >= 0 else start + 2 * PASSAGE
        yield text[start:end]
        start = end


def _first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    taken = 0
    for text in texts:
        if taken >= limit:
            return
        taken += len(text.encode("utf-8"))
        yield text
