"""Items in their splits: what becomes of the rows that a task reads.

Items are kept as an Arrow table, in memory or in a file of the cache that is memory-mapped, so that millions of them take
little memory and are read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, overload

from bench.machine import cache
from bench.tasks.alike import comparable, representative
from bench.tasks.table import Split

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa

    Rows = np.ndarray[Any, np.dtype[np.int64]]

SPLITS: tuple[Split, ...] = get_args(Split)
_TEST, _VALIDATION = 0.2, 0.3  # as bench.tasks.base.split_of has them
_ROWS = 8192  # of a batch of records


@dataclass(frozen=True)
class Item:
    """What a model reads, in one or more texts, and what it should answer: anything that JSON can say."""

    texts: tuple[str, ...]
    answer: Any


Found = tuple[Split | None, Item]
"""An item, and the split that it is in where the data says so."""

T = TypeVar("T")


class Column(Sequence[T], Generic[T]):
    """A split's part of a column of the table, each value read when it is asked for."""

    def __init__(self, values: pa.ChunkedArray, of: Callable[[str], T]) -> None:
        self._values, self._of = values, of

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            return (
                Column(self._values.slice(start, max(0, stop - start)), self._of) if step == 1 else tuple(self)[place]
            )
        return self._of(self._values[place].as_py())

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), _ROWS):
            yield from map(self._of, self._values.slice(start, _ROWS).to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


class DividedItems:
    """Items in their splits, in an order that depends on the set of items alone.

    ``fingerprint`` is a SHA-256 over every item and its split, and ``counts`` says what became of the rows, as
    :meth:`bench.tasks.base.Task.counts` does. ``official`` says that the data had splits.
    """

    def __init__(self, table: pa.Table) -> None:
        facts = json.loads(table.schema.metadata[b"items"])
        self.fingerprint: str = facts["fingerprint"]
        self.counts: Mapping[str, int] = facts["counts"]
        self.official: bool = facts["official"]
        sizes = [self.counts.get(split, 0) for split in SPLITS]
        starts = itertools.accumulate(sizes, initial=0)
        self._parts = {split: table.slice(*part) for split, *part in zip(SPLITS, starts, sizes, strict=False)}

    @property
    def texts(self) -> Mapping[Split, Sequence[str]]:
        """The first text of each item."""
        return {split: self.column(split, 0) for split in SPLITS}

    def column(self, split: Split, text: int) -> Sequence[str]:
        """The texts of the items of `split` at place `text` in each."""
        return Column(self._parts[split].column(f"text_{text}"), str)

    def columns(self, split: Split) -> list[Sequence[str]]:
        """The texts of the items of `split`, place by place."""
        return [self.column(split, text) for text in range(self._parts[split].num_columns - 1)]

    def answers(self, split: Split) -> Sequence[Any]:
        """The answers of `split`."""
        return Column(self._parts[split].column("answer"), json.loads)

    def distinct(self, split: Split) -> Counter[str]:
        """How often each answer occurs in `split`; the answers are as JSON writes them."""
        found = self._parts[split].column("answer").value_counts()
        return Counter({each["values"]: each["counts"] for each in found.to_pylist()})

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DividedItems) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True)
class Choice:
    """Which items are used: see the keys of :class:`bench.tasks.table.DataTable`.

    ``few_shot`` counts those of each answer where they are taken ``by_answer``. Where a text may have ``several_answers``,
    it is an item with each of them.
    """

    max_items: int | None = None
    few_shot: int | None = None
    near_duplicates: float | None = None
    by_answer: bool = True
    several_answers: bool = False


def divide(
    found: Iterable[Found], choice: Choice | None = None, kept: str = "", noted: Counter[str] | None = None
) -> DividedItems:
    """Put items into splits; `kept` names a file of the cache to keep them in, or to take them from without reading `found`.

    Reading `found` may fill `noted`, which is added to the counts.

    Texts are the same where they have the same form (:func:`bench.tasks.alike.comparable`). Without official splits, an
    item's split is by a hash of the form: about 70 % train, 10 % validate and 20 % test. So an item stays in its split
    whatever else there is, and no text is ever in two. Items that occur again with the same answer count once, written
    in one of the ways that occur; a text that occurs with two answers is left out: it has no right answer, and to keep
    either would make the result depend on the order of rows. Where it may have several, all of them are in its split.

    Official splits stay as they are, but for leaks: items of training that validation or test has too, and of validation
    that test has, are left out and counted. Where there is no validation, it is a tenth of training, by the hash.
    """
    choice = choice or Choice()
    if kept:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none yet, or it is damaged
            return DividedItems(_mapped(cache.folder() / kept))
        with contextlib.suppress(OSError):
            with cache.writing(kept) as file, cache.writing(f"{kept}.read") as rows:
                _write(_Read(found, rows), choice, noted, file)
            (cache.folder() / f"{kept}.read").unlink(missing_ok=True)
            return DividedItems(_mapped(cache.folder() / kept))
    return DividedItems(_write(_Read(found, None), choice, noted, None))


def _mapped(file: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


class _Read:
    """All rows in the order in which they were found, with a hash of each one's form, of its answer, and of all of it."""

    def __init__(self, found: Iterable[Found], file: Path | None) -> None:
        import numpy as np
        import pyarrow as pa

        forms, answers, whole, official = array("Q"), array("Q"), bytearray(), array("b")
        batches: list[pa.RecordBatch] = []
        rows: list[tuple[str, ...]] = []
        sink = None
        for split, item in found:
            answer = json.dumps(item.answer, sort_keys=True)
            rows.append((*item.texts, answer))
            forms.append(_hash("\x1f".join(map(comparable, item.texts))))
            answers.append(_hash(answer))
            whole += hashlib.blake2b(json.dumps(rows[-1]).encode("ascii"), digest_size=16).digest()
            official.append(SPLITS.index(split) if split else -1)
            if len(rows) == _ROWS:
                batches.append(_batch(rows))
                rows.clear()
                if file is not None:
                    sink = sink or pa.ipc.new_file(str(file), batches[0].schema)
                    sink.write_batch(batches.pop())
        if rows or not len(forms):
            batches.append(_batch(rows))
        if sink is not None:
            for batch in batches:
                sink.write_batch(batch)
            sink.close()
            self.table = _mapped(file)  # type: ignore[arg-type]
        else:
            self.table = pa.Table.from_batches(batches)
        self.forms = np.frombuffer(forms, dtype=np.uint64)
        self.answers = np.frombuffer(answers, dtype=np.uint64)
        self.whole = np.frombuffer(bytes(whole), dtype=np.uint64).reshape(-1, 2)
        self.official = np.frombuffer(official, dtype=np.int8)

    def texts(self, row: int) -> str:
        """All texts of `row` as one."""
        return "\x1f".join(column[row].as_py() for column in self.table.columns[:-1])

    def sorted(self) -> Rows:
        """All rows by their forms; of one form by answers, then by all there is."""
        import numpy as np

        return np.lexsort((self.whole[:, 1], self.whole[:, 0], self.answers, self.forms))

    def at(self, rows: Rows) -> np.ndarray[Any, np.dtype[np.float64]]:
        """:func:`bench.tasks.base.hash_fraction` of the forms of `rows`."""
        return self.forms[rows] / 2.0**64


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def _batch(rows: Sequence[tuple[str, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [(), ()]
    names = [*(f"text_{text}" for text in range(len(columns) - 1)), "answer"]
    return pa.record_batch([pa.array(column, pa.large_string()) for column in columns], names)


def _write(read: _Read, choice: Choice, noted: Counter[str] | None, file: Path | None) -> pa.Table:
    """The items that are used of what was `read`, as a table of their order; in `file` where that is given."""
    import numpy as np
    import pyarrow as pa

    counts: Counter[str] = Counter({"read": len(read.forms), **(noted or {})})
    official = bool((read.official >= 0).any())
    rows = _official(read, counts) if official else _hashed(read, choice, counts)
    if choice.near_duplicates:
        rows = _unlike(read, rows, choice.near_duplicates, counts)
    if choice.max_items:
        rows = {split: of[: choice.max_items] for split, of in rows.items()}
    if choice.few_shot:
        rows["train"] = _few(read, rows["train"], choice)
    counts.update({split: len(of) for split, of in rows.items()})
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split} {len(rows[split])} ".encode() + read.whole[rows[split]].tobytes())
    facts = json.dumps({"fingerprint": digest.hexdigest(), "counts": counts, "official": official})
    schema = read.table.schema.with_metadata({"items": facts})
    order = np.concatenate([rows[split] for split in SPLITS])
    parts = (
        read.table.take(order[start : start + _ROWS]).combine_chunks().cast(schema)
        for start in range(0, len(order), _ROWS)
    )
    if file is None:
        return pa.concat_tables([schema.empty_table(), *parts])
    with pa.ipc.new_file(str(file), schema) as sink:
        for part in parts:
            sink.write_table(part)
    return None


def _hashed(read: _Read, choice: Choice, counts: Counter[str]) -> dict[Split, Rows]:
    """The rows of each split, by the hash: one of each form that has one answer alone, or of each form and answer."""
    import numpy as np

    order = read.sorted()
    if not len(order):
        return dict.fromkeys(SPLITS, order)
    forms, answers, whole = read.forms[order], read.answers[order], read.whole[order]
    other = forms[1:] != forms[:-1]
    if choice.several_answers:
        other |= answers[1:] != answers[:-1]
    starts = np.flatnonzero(np.append(True, other))
    sizes = np.diff(np.append(starts, len(order)))
    new = np.append(True, (whole[1:] != whole[:-1]).any(1))
    ways = np.add.reduceat(new.astype(np.int64), starts)
    one = np.minimum.reduceat(answers, starts) == np.maximum.reduceat(answers, starts)
    counts["conflicting"] += int(sizes[~one].sum())
    counts["near_equal"] += int((ways - 1)[one].sum())
    counts["equal"] += int((sizes - ways)[one].sum())
    chosen = order[starts]
    for group in np.flatnonzero(one & (ways > 1)):
        written = {read.texts(row): row for row in order[starts[group] : starts[group] + sizes[group]]}
        chosen[group] = written[representative(written)]
    chosen = chosen[one]
    at = read.at(chosen)
    return {
        "train": chosen[at >= _VALIDATION], "validation": chosen[(at >= _TEST) & (at < _VALIDATION)], "test": chosen[at < _TEST]
    }  # fmt: skip


def _official(read: _Read, counts: Counter[str]) -> dict[Split, Rows]:
    """The rows of each official split, leaks left out."""
    import numpy as np

    order = read.sorted()
    rows = {split: order[read.official[order] == number] for number, split in enumerate(SPLITS)}
    seen = read.forms[rows["test"]]
    later: tuple[Split, ...] = ("validation", "train")
    for split in later:
        leaks = np.isin(read.forms[rows[split]], seen)
        counts["in_two_splits"] += int(leaks.sum())
        rows[split] = rows[split][~leaks]
        seen = np.concatenate([seen, read.forms[rows[split]]])
    if not len(rows["validation"]):
        at = read.at(rows["train"])
        held_out = (at >= _TEST) & (at < _VALIDATION)
        rows["train"], rows["validation"] = rows["train"][~held_out], rows["train"][held_out]
    return rows


def _unlike(read: _Read, rows: dict[Split, Rows], threshold: float, counts: Counter[str]) -> dict[Split, Rows]:
    """The rows whose words are not nearly those of a row before: of test first, so that training has none that is like it."""
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(threshold=threshold, num_perm=128), dict(rows)
    for split in reversed(SPLITS):
        kept = []
        for place, row in enumerate(rows[split]):
            words = {word.encode("utf-8") for word in comparable(read.texts(row)).lower().split()}
            sketch = MinHash(num_perm=128, seed=1)
            sketch.update_batch(sorted(words))
            if index.query(sketch):
                counts["near_duplicates"] += 1
                continue
            index.insert(int(row), sketch)
            kept.append(place)
        found[split] = rows[split][kept]
    return found


def _few(read: _Read, rows: Rows, choice: Choice) -> Rows:
    """The first `few_shot` of `rows`, or of those with each answer."""
    seen: Counter[int] = Counter()
    taken = []
    for place, answer in enumerate(read.answers[rows].tolist() if choice.by_answer else [0] * len(rows)):
        seen[answer] += 1
        if seen[answer] <= (choice.few_shot or 0):
            taken.append(place)
    return rows[taken]
