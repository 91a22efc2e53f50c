"""Items as token ids: made once for each tokenizer and kept in the cache, in an Arrow file that is memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from bench.machine import cache
from bench.tasks.base import Batch, TaskError, first

if TYPE_CHECKING:
    Numbers = np.ndarray[Any, np.dtype[np.int32]]

PART = 512
"""Items that are tokenized together: quick for the tokenizer, which needs much memory for each text it is at."""

Part = Mapping[str, Sequence[Sequence[int]]]
"""Rows of numbers of some items, by name, such as "input_ids"."""


class Tokens:
    """Rows of numbers of each item, by name. `make` gives them in parts of :data:`PART` items, the last one shorter.

    They are kept as `kept_as` in the cache, or in memory where that is None or the cache cannot be written.
    """

    def __init__(self, make: Callable[[], Iterator[Part]], kept_as: str | None) -> None:
        self._table = _table(make, kept_as)
        self._parts: dict[tuple[str, int], tuple[Numbers, Numbers]] = {}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def names(self) -> list[str]:
        """The names of the rows."""
        return list(self._table.column_names)

    def row(self, name: str, item: int) -> Numbers:
        """The row called `name` of `item`."""
        starts, values = self._part(name, item // PART)
        at = item % PART
        return values[starts[at] : starts[at + 1]]

    def lengths(self, name: str) -> Numbers:
        """How many numbers each item has."""
        count = (len(self) + PART - 1) // PART
        return np.concatenate([np.diff(self._part(name, part)[0]) for part in range(count)] or [np.zeros(0, np.int32)])

    def _part(self, name: str, part: int) -> tuple[Numbers, Numbers]:
        if (name, part) not in self._parts:
            chunk = self._table.column(name).chunk(part)
            # Out of the buffers, for pyarrow's own ways from and to NumPy import pandas, which a peak of memory would show.
            starts = np.frombuffer(chunk.buffers()[1], np.int32)[: len(chunk) + 1]
            values = chunk.values.buffers()[1]
            self._parts[name, part] = (
                starts,
                np.frombuffer(values, np.int32)[: starts[-1]] if values is not None else np.zeros(0, np.int32),
            )
        return self._parts[name, part]


def _table(make: Callable[[], Iterator[Part]], kept_as: str | None) -> pa.Table:
    if kept_as is not None:
        kept = cache.folder() / kept_as
        with contextlib.suppress(OSError, pa.ArrowException):  # there is none yet, or it is damaged
            return pa.ipc.open_file(pa.memory_map(str(kept))).read_all()
        with contextlib.suppress(OSError):
            with cache.writing(kept_as) as file:
                _write(make(), str(file))
            return pa.ipc.open_file(pa.memory_map(str(kept))).read_all()
    buffer = pa.BufferOutputStream()
    _write(make(), buffer)
    return pa.ipc.open_file(buffer.getvalue()).read_all()


def _write(parts: Iterator[Part], where: Any) -> None:
    sink = None
    for part in parts:
        batch = pa.record_batch({name: _lists(rows) for name, rows in sorted(part.items())})
        sink = sink or pa.ipc.new_file(where, batch.schema)
        sink.write_batch(batch)
    sink = sink or pa.ipc.new_file(where, pa.schema([]))
    sink.close()


def in_parts(rows: Iterator[Mapping[str, Sequence[int]]]) -> Iterator[Part]:
    """Rows of one item after the other, in parts of :data:`PART` items."""
    while some := list(itertools.islice(rows, PART)):
        yield {name: [row[name] for row in some] for name in some[0]}


def _lists(rows: Sequence[Sequence[int]]) -> pa.Array:
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, count=int(starts[-1]))
    numbers = pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)])
    return pa.Array.from_buffers(pa.list_(pa.int32()), len(rows), [None, pa.py_buffer(starts)], children=[numbers])


def name_in_cache(tokenizer: Any, *made_of: object) -> str | None:
    """A name by all that token ids come from; None for a tokenizer in Python, which does not say what it does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from importlib.metadata import version

    parts = [
        version("tokenizers"),
        backend.to_str(),
        getattr(tokenizer, "chat_template", None),
        PART,
        *map(str, made_of),
    ]
    return f"tokens/{hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()}.arrow"


def padded(rows: Sequence[Numbers], value: int, width: int | None = None) -> torch.Tensor:
    """Rows as one tensor ``[rows, width]``, padded on the right with `value`."""
    width = max(map(len, rows)) if width is None else width
    found = np.full((len(rows), width), value, dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found)


class EncodedTexts:
    """Items of one text or of a pair as token ids, special tokens included, with a target each.

    `texts` has the first texts, then the second ones; `targets` is a tensor with items along dimension 0. ``lengths``
    counts the tokens of each item.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[Sequence[str]],
        targets: torch.Tensor,
        max_length: int,
        fingerprint: str | None = None,
    ) -> None:
        self._fill = fills(tokenizer)
        self.targets = targets

        def make() -> Iterator[Part]:
            for start in range(0, len(texts[0]), PART):
                part = [list(each[start : start + PART]) for each in texts]
                found = tokenizer(*part, truncation=True, max_length=max_length, return_attention_mask=False)
                # Without special tokens a text can come to nothing, and a model needs a token at least.
                yield {
                    name: [row or [self._fill[name]] for row in found[name]]
                    for name in self._fill.keys() & found.keys()
                }

        made_of = (fingerprint, max_length, len(texts))
        self.tokens = Tokens(make, name_in_cache(tokenizer, *made_of) if fingerprint is not None else None)
        self.lengths: Sequence[int] = self.tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order."""
        lengths = tuple(int(self.lengths[item]) for item in items)
        inputs = {
            name: padded([self.tokens.row(name, item) for item in items], self._fill[name])
            for name in self.tokens.names
        }
        inputs["attention_mask"] = real(lengths)
        return Batch(inputs, self.targets[torch.tensor(items)], lengths, terms=(1,) * len(items), items=tuple(items))


def fills(tokenizer: Any) -> dict[str, int]:
    """What stands where there is only padding, by input."""
    return {
        "input_ids": first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0),
        "token_type_ids": first(getattr(tokenizer, "pad_token_type_id", None), 0),
    }


def with_places(tokenizer: Any) -> None:
    """Check that `tokenizer` says which characters a token is of.

    Raises:
        TaskError: it is one in Python, which does not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TaskError(
            f"{type(tokenizer).__name__} does not say which characters a token is of; name a model whose folder has a "
            "tokenizer.json, as save_pretrained of a fast tokenizer writes it"
        )


def real(lengths: Sequence[int]) -> torch.Tensor:
    """The attention mask of items of these lengths, padded on the right: ``[items, longest]``."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
