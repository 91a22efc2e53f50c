"""The rows of one's own file, with faults said by line, column and mend."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import cache
from bench.machine.paths import irregular
from bench.recipe.errors import nearest
from bench.tasks.alike import comparable
from bench.tasks.base import TaskError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
"""What the names of files with rows end in."""


@dataclass(frozen=True)
class Row:
    """One row: where it stands, and its values by the wanted column."""

    rows: Rows
    number: int
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """A text of which something can be seen.

        Raises:
            TaskError: it is not.
        """
        value = self.values[column]
        if value is not None and not isinstance(value, str):
            raise self.error(f"`{column}` is text, found {value!r:.60}")
        if not value or not comparable(value):
            raise self.error(f"`{column}` is empty; fill it in or take the row out")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"`{column}` holds half of a surrogate pair, which is no character") from None
        return value

    def number_in(self, column: str) -> float:
        """A finite number, also one that is written as text.

        Raises:
            TaskError: it is not.
        """
        value = self.values[column]
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise self.error(f"`{column}` is a number, found {value!r:.60}; fill it in or take the row out")
        return found

    def list_in(self, column: str) -> list[Any]:
        """A list; in a file without lists, such as .csv, what is between white space.

        Raises:
            TaskError: it is not.
        """
        value = self.values[column]
        if isinstance(value, str) and self.rows.flat:
            return value.split()
        if not isinstance(value, list):
            raise self.error(f'`{column}` is a list, as ["one", "two"], found {value!r:.60}')
        return value

    def error(self, message: str) -> TaskError:
        """`message` with the file's name and the row's line."""
        return self.rows.error(f"{self.rows.counted_by} {self.number}: {message}")


class Rows:
    """The wanted columns of a file, which is one of :data:`SUFFIXES`; of text, in UTF-8.

    .csv and .tsv begin with a header row, .jsonl has one object a line. A column ``answers.text`` is the key ``text`` of
    what is in ``answers``. Iterating gives each row, and raises TaskError where the file or a row is wrong.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = columns
        self._places: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}

    @property
    def suffix(self) -> str:
        """What the file's name ends in, in small letters."""
        return self.file.suffix.lower()

    @property
    def flat(self) -> bool:
        """Whether values are text alone, so that a list is one with white space between."""
        return self.suffix in (".csv", ".tsv")

    @property
    def counted_by(self) -> str:
        """What a row's number counts."""
        return "row" if self.suffix in (".parquet", ".arrow") else "line"

    def fingerprint(self) -> str:
        """A SHA-256 of the content.

        Raises:
            TaskError: it cannot be read.
        """
        self._check()
        try:
            return cache.sha256(self.file)
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or error}") from None

    def __iter__(self) -> Iterator[Row]:
        read: dict[str, Callable[[], Iterator[Row]]] = {
            ".csv": self._csv, ".tsv": self._csv, ".jsonl": self._jsonl, ".parquet": self._parquet, ".arrow": self._arrow,
        }  # fmt: skip
        if self.suffix not in read:
            raise self.error(f"files of kind `{self.suffix}` are not read; give it as {', '.join(SUFFIXES)}")
        self._check()
        empty = True
        for row in read[self.suffix]():
            empty = False
            yield row
        if empty:
            raise self.error("it has no rows")

    def content(self) -> str:
        """The whole file as text.

        Raises:
            TaskError: it cannot be read.
        """
        return "".join(self._lines())

    def error(self, message: str) -> TaskError:
        """`message` with the file's name."""
        return TaskError(f"{self.file}: {message}")

    def _check(self) -> None:
        """Raise TaskError where the file is none that can be read."""
        if what := irregular(self.file):
            raise self.error(f"cannot be read: it is {what}")
        try:
            with self.file.open("rb"):
                pass
        except FileNotFoundError:
            known = [
                other.name
                for other in self.file.parent.glob("*")
                if other.suffix.lower() in (*SUFFIXES, self.file.suffix)
            ]
            raise self.error(f"no such file{nearest(self.file.name, known)}") from None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or error}") from None

    # -- text

    def _lines(self) -> Iterator[str]:
        """The lines of text, with their ends. Not by str.splitlines, which also splits at signs that may stand within one."""
        self._check()
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as stream:
                yield from stream
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise self._not_utf8() from None

    def _not_utf8(self) -> TaskError:
        with self.file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    return self.error(f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}); save it as UTF-8")
        return self.error("it is not UTF-8; save it as UTF-8")

    def _csv(self) -> Iterator[Row]:
        # The limit is the whole process's, and guards against nothing here.
        limit = csv.field_size_limit(2**31 - 1)
        reader = csv.reader(self._lines(), strict=True, delimiter="\t" if self.suffix == ".tsv" else ",")
        try:
            header = [name.strip() for name in next(reader, [])]
            where = self._where(reader.line_num, header)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise self.error(
                        f"line {reader.line_num} has {len(cells)} cells and the header has {len(header)}; "
                        'a text that holds commas stands in "quotes"'
                    )
                yield self._row(reader.line_num, cells, where)
        except csv.Error as error:
            raise self.error(f'line {reader.line_num}: {error}; a " within "quotes" is doubled: ""') from None
        finally:
            csv.field_size_limit(limit)

    def _jsonl(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line, object_pairs_hook=_Pairs)
            except (ValueError, RecursionError) as error:
                raise self.error(f"line {number} is not JSON: {error}") from None
            if not isinstance(found, _Pairs):
                columns = ", ".join(f'"{column}": ...' for column in self.columns)
                raise self.error(f"line {number} is not an object, as in {{{columns}}}")
            names, values = [name for name, _ in found], [value for _, value in found]
            yield self._row(number, values, self._where(number, names))

    # -- Arrow's formats

    def _parquet(self) -> Iterator[Row]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.file) as found:
                names = found.schema_arrow.names
                where = self._where(1, names)
                wanted = [names[place] for place, _ in where]
                yield from self._batches(found.iter_batches(batch_size=1000, columns=wanted), names, where)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged("a Parquet file", error) from None

    def _arrow(self) -> Iterator[Row]:
        import pyarrow

        try:
            with pyarrow.memory_map(str(self.file)) as source:
                try:  # datasets writes a stream, and Feather is a file
                    found = pyarrow.ipc.open_stream(source)
                    batches: Iterator[Any] = iter(found)
                except pyarrow.ArrowInvalid:
                    source.seek(0)
                    found = pyarrow.ipc.open_file(source)
                    batches = map(found.get_batch, range(found.num_record_batches))
                names = found.schema.names
                where = self._where(1, names)
                yield from self._batches(batches, names, where)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged("an Arrow file", error) from None

    def _batches(
        self, batches: Iterator[Any], names: Sequence[str], where: list[tuple[int, list[str]]]
    ) -> Iterator[Row]:
        number = 0
        for batch in batches:
            columns = {place: batch.column(names[place]).to_pylist() for place, _ in where}
            for at in range(batch.num_rows):
                number += 1
                yield self._row(number, {place: values[at] for place, values in columns.items()}, where)

    def _damaged(self, what: str, error: Exception) -> TaskError:
        return self.error(f"it is not {what}, or is damaged or cut short ({str(error).splitlines()[0]}); copy it again")

    # -- columns

    def _row(self, number: int, cells: Any, where: list[tuple[int, list[str]]]) -> Row:
        values = {}
        for column, (place, keys) in zip(self.columns, where, strict=True):
            value = cells[place]
            for key in keys:
                known = dict(value) if isinstance(value, Mapping | _Pairs) else {}
                if key not in known:
                    raise self.error(f"{self.counted_by} {number} has no `{column}`{nearest(key, known)}")
                value = known[key]
            values[column] = _plain(value)
        return Row(self, number, values)

    def _where(self, number: int, names: Sequence[str]) -> list[tuple[int, list[str]]]:
        """The places of the wanted columns among the `names` that row `number` gives, and the keys to follow there."""
        given = tuple(names)
        if given not in self._places:
            forms = [comparable(name) for name in given]
            found: list[tuple[int, list[str]]] = []
            for column in self.columns:
                # A name looks the same in any Unicode form, and with or without what cannot be seen.
                places, keys = [place for place, form in enumerate(forms) if form == comparable(column)], []
                if not places and "." in column:
                    first, *keys = column.split(".")
                    places = [place for place, form in enumerate(forms) if form == comparable(first)]
                if not places:
                    raise self._no_column(number, column, given)
                if len(places) > 1:
                    numbers = " and ".join(str(place + 1) for place in places)
                    raise self.error(
                        f"line {number}: `{column}` is there {len(places)} times, in places {numbers}; rename or remove all but one"
                    )
                if (places[0], keys) in found:
                    raise self.error(f"column `{column}` is named twice, as for a text and its label; name two columns")
                found.append((places[0], keys))
            self._places[given] = found
        return self._places[given]

    def _no_column(self, number: int, column: str, names: Sequence[str]) -> TaskError:
        if self.suffix == ".jsonl":
            return self.error(f"line {number} has no `{column}`{nearest(column, names)}")
        if not names:
            return self.error(f"it has no header row; its first line names the columns, as in {','.join(self.columns)}")
        separators = {";": "semicolons", "\t": "tabs"}
        used = [name for sign, name in separators.items() if len(names) == 1 and sign in names[0]]
        hint = f"; its columns look separated by {used[0]}, commas are needed" if used else nearest(column, names)
        return self.error(f"it has no column `{column}`{hint}")


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it is written: a key that stands twice in it is there twice."""

    def __repr__(self) -> str:
        return repr(dict(self))


def _plain(value: object) -> object:
    """`value` with objects as dicts."""
    if isinstance(value, _Pairs):
        return {name: _plain(inner) for name, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
