"""Texts with the texts to be written for them, as token ids for a model with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.tasks.base import IGNORED, Batch
from bench.tasks.tokens import PART, Part, Tokens, fills, name_in_cache, padded, real


class Sequences:
    """Sources and targets, each with the tokenizer's special tokens and cut at its end where it is too long.

    ``labels`` are among a batch's inputs too: of them the model makes what its decoder reads. ``lengths`` counts the
    sources' tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        sources: Sequence[str],
        targets: Sequence[str],
        max_length: int,
        max_target_length: int,
        fingerprint: str,
    ) -> None:
        self._fill = fills(tokenizer)["input_ids"]

        def make() -> Iterator[Part]:
            for start in range(0, len(sources), PART):
                here = slice(start, start + PART)
                read = tokenizer(list(sources[here]), truncation=True, max_length=max_length)["input_ids"]
                options = {"truncation": True, "max_length": max_target_length}
                written = tokenizer(text_target=list(targets[here]), **options)["input_ids"]
                yield {"input_ids": [row or [self._fill] for row in read], "labels": written}

        made_of = (fingerprint, max_length, max_target_length)
        self._tokens = Tokens(make, name_in_cache(tokenizer, "sequences", *made_of))
        self.lengths: Sequence[int] = self._tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def source(self, item: int) -> list[int]:
        """What the encoder reads of an item."""
        found: list[int] = self._tokens.row("input_ids", item).tolist()
        return found

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order, padded on the right."""
        lengths = tuple(int(self.lengths[item]) for item in items)
        labels = padded([self._tokens.row("labels", item) for item in items], IGNORED)
        inputs = {
            "input_ids": padded([self._tokens.row("input_ids", item) for item in items], self._fill),
            "attention_mask": real(lengths),
            "labels": labels,
        }
        terms = tuple((labels != IGNORED).sum(1).tolist())
        return Batch(inputs, labels, lengths, terms, tuple(items))
