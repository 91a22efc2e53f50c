"""What all tasks on texts share: the data in its splits, and batches of it as token ids."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from bench.tasks.base import Batch, Split, Task, TaskError, shuffled

if TYPE_CHECKING:
    import torch


class Divided(Protocol):
    """Texts in their splits, and a SHA-256 over all of them with all that belongs to them."""

    @property
    def texts(self) -> Mapping[Split, Sequence[str]]:
        """The texts of each split, in an order that depends on the set of texts alone."""

    @property
    def fingerprint(self) -> str:
        """The same for the same set of texts."""

    @property
    def counts(self) -> Mapping[str, int]:
        """As :meth:`bench.tasks.base.Task.counts` has them."""


class Encoded(Protocol):
    """A split as token ids."""

    @property
    def lengths(self) -> Sequence[int]:
        """The tokens of each item."""

    def __len__(self) -> int:
        """How many items."""

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order, on the CPU."""


GROUPED = 50
"""Batches among which items of like length are put together, as in the Trainer of transformers."""


def grouped(order: Iterator[int], lengths: Sequence[int], batch_size: int) -> Iterator[int]:
    """`order`, items of like length put together: of 50 batches the longest item's first, and the others as they come."""
    while some := list(itertools.islice(order, GROUPED * batch_size)):
        by_length = sorted(some, key=lengths.__getitem__, reverse=True)
        batches = [by_length[start : start + batch_size] for start in range(0, len(some), batch_size)]
        # The longest first, so that a batch that does not fit into memory is met at once; the others in the drawn order.
        place = {item: number for number, item in enumerate(some)}
        yield from itertools.chain(
            batches[0], *sorted(batches[1:], key=lambda batch: min(place[item] for item in batch))
        )


D = TypeVar("D", bound=Divided)
E = TypeVar("E", bound=Encoded)


class TextTask(Task, Generic[D, E]):
    """A task on texts, which are read once, and encoded once for each tokenizer and length."""

    reads_texts = True
    group_by_length = False
    """Whether a batch of training holds items of like length, for little padding."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[int, Split, int], tuple[Any, E]] = {}

    @abc.abstractmethod
    def divided(self) -> D:
        """Read the data and divide it.

        Raises:
            TaskError: the data cannot be used.
        """

    @abc.abstractmethod
    def encode(self, split: Split, tokenizer: Any, max_length: int) -> E:
        """A split that is not empty, as token ids."""

    @functools.cached_property
    def data(self) -> D:
        """The data, read once.

        Raises:
            TaskError: the data cannot be used.
        """
        return self.divided()

    def fingerprint(self) -> str:
        """A SHA-256 over every text, all that belongs to it, and its split.

        Raises:
            TaskError: the data cannot be used.
        """
        return self.data.fingerprint

    def counts(self) -> Mapping[str, int]:
        """What became of the texts.

        Raises:
            TaskError: the data cannot be used.
        """
        return self.data.counts

    def splits(self) -> frozenset[Split]:
        """The splits that a text fell into: of few texts, validation may be empty."""
        return frozenset(split for split, texts in self.data.texts.items() if texts)

    def texts(self, split: Split) -> Sequence[str]:
        """The texts of a split."""
        return self.data.texts[split]

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Batches on the CPU, padded on the right to their longest item.

        With a generator the stream is endless: every epoch holds each item once in a new order, and batches
        run on over the end of an epoch, so that all have exactly `batch_size` items. Without, it is one pass
        in order and the last batch may be short.

        Raises:
            TaskError: the split has no texts.
        """
        encoded = self.encoded(split, tokenizer, max_length)
        order = self.order(encoded, batch_size, generator)
        while items := tuple(itertools.islice(order, batch_size)):
            yield encoded.batch(items)

    def epoch_items(self, tokenizer: Any, max_length: int) -> int:
        """How many rows of token ids training has: of texts in windows or in packs, not as many as texts."""
        return len(self.encoded("train", tokenizer, max_length))

    def order(self, encoded: Encoded, batch_size: int, generator: torch.Generator | None) -> Iterator[int]:
        """The items of :meth:`batches`, one after the other."""
        if generator is None:
            return iter(range(len(encoded)))
        order = shuffled(len(encoded), generator)
        return grouped(order, encoded.lengths, batch_size) if self.group_by_length else order

    def encoded(self, split: Split, tokenizer: Any, max_length: int) -> E:
        """A split as token ids, made once for each tokenizer and length.

        Raises:
            TaskError: the split has no texts.
        """
        key = (id(tokenizer), split, max_length)
        if key not in self._encoded:
            if not self.texts(split):
                raise TaskError(f"{self.name}: there are no {split} texts")
            # Beside its tokenizer, so that no other can come by its id.
            self._encoded[key] = tokenizer, self.encode(split, tokenizer, max_length)
        return self._encoded[key][1]
