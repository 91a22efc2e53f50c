"""The rows of one's own file, with faults said by line, column and mend."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.machine.paths import PathError, find, irregular
from bench.recipe.errors import nearest
from bench.tasks.alike import comparable
from bench.tasks.base import TaskError
from bench.tasks.table import DataTable


class Rows:
    """The wanted columns of a .csv file with a header row, or of a .jsonl file of one object a line, in UTF-8.

    Iterating gives each row's line number and values, and raises TaskError where the file or a row is wrong.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = columns
        self._places: dict[tuple[str, ...], list[int]] = {}

    @classmethod
    def of(cls, table: DataTable, suite_folder: Path, *columns: str) -> Rows:
        """The rows of the file that a suite's ``[task]`` table names, seen from `suite_folder`, the suite's folder.

        Raises:
            TaskError: the file is on no path that there can be.
        """
        try:
            return cls(find(table.data, suite_folder), columns)
        except PathError as error:
            raise TaskError(f"task.data: {error}") from None

    def __iter__(self) -> Iterator[tuple[int, Sequence[object]]]:
        readers = {".csv": self._csv, ".jsonl": self._jsonl}
        suffix = self.file.suffix.lower()
        if suffix not in readers:
            raise self.error(f"files of kind `{suffix}` are not read; give it as .csv or .jsonl")
        empty = True
        for row in readers[suffix](self.content()):
            empty = False
            yield row
        if empty:
            raise self.error("it has no rows")

    def text(self, line: int, column: str, value: object) -> str:
        """`value` as text of which something can be seen.

        Raises:
            TaskError: it is not.
        """
        if value is not None and not isinstance(value, str):
            raise self.error(f"line {line}: `{column}` is text, found {value!r:.60}")
        if not value or not comparable(value):
            raise self.error(f"line {line}: `{column}` is empty; fill it in or take the row out")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(f"line {line}: `{column}` holds half of a surrogate pair, which is no character") from None
        return value

    def content(self) -> str:
        """The whole file.

        Raises:
            TaskError: it cannot be read.
        """
        if what := irregular(self.file):
            raise self.error(f"cannot be read: it is {what}")
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            known = [
                other.name
                for other in self.file.parent.glob("*")
                if other.suffix.lower() in (".csv", ".jsonl", self.file.suffix)
            ]
            raise self.error(f"no such file{nearest(self.file.name, known)}") from None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or error}") from None
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise self.error(
                f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
            ) from None

    def error(self, message: str) -> TaskError:
        """`message` with the file's name."""
        return TaskError(f"{self.file}: {message}")

    def _csv(self, content: str) -> Iterator[tuple[int, Sequence[object]]]:
        # The limit is the whole process's, and guards against nothing here: the content is in memory already.
        limit = csv.field_size_limit(2**31 - 1)
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
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
                yield reader.line_num, [cells[position] for position in where]
        except csv.Error as error:
            raise self.error(f'line {reader.line_num}: {error}; a " within "quotes" is doubled: ""') from None
        finally:
            csv.field_size_limit(limit)

    def _where(self, line: int, names: Sequence[str]) -> list[int]:
        """The places of the wanted columns among the `names` that `line` gives."""
        given = tuple(names)
        if given not in self._places:
            forms = [comparable(name) for name in given]
            found = []
            for column in self.columns:
                # A name looks the same in any Unicode form, and with or without what cannot be seen.
                places = [place for place, form in enumerate(forms) if form == comparable(column)]
                if not places:
                    raise self._no_column(line, column, given)
                if len(places) > 1:
                    numbers = " and ".join(str(place + 1) for place in places)
                    raise self.error(
                        f"line {line}: `{column}` is there {len(places)} times, in places {numbers}; rename or remove all but one"
                    )
                if places[0] in found:
                    raise self.error(f"the text and its label are both in column `{column}`; name two columns")
                found += places
            self._places[given] = found
        return self._places[given]

    def _no_column(self, line: int, column: str, names: Sequence[str]) -> TaskError:
        if self.file.suffix.lower() == ".jsonl":
            return self.error(f"line {line} has no `{column}`{nearest(column, names)}")
        if not names:
            return self.error(f"it has no header row; its first line names the columns, as in {','.join(self.columns)}")
        separators = {";": "semicolons", "\t": "tabs"}
        used = [name for sign, name in separators.items() if len(names) == 1 and sign in names[0]]
        hint = f"; its columns look separated by {used[0]}, commas are needed" if used else nearest(column, names)
        return self.error(f"it has no column `{column}`{hint}")

    def _jsonl(self, content: str) -> Iterator[tuple[int, Sequence[object]]]:
        # Not splitlines(): that also splits at signs that may stand within a JSON string.
        for line, row in enumerate(content.split("\n"), 1):
            if not row.strip():
                continue
            try:
                found = json.loads(row, object_pairs_hook=_Pairs)
            except (ValueError, RecursionError) as error:
                raise self.error(f"line {line} is not JSON: {error}") from None
            if not isinstance(found, _Pairs):
                columns = ", ".join(f'"{column}": ...' for column in self.columns)
                raise self.error(f"line {line} is not an object, as in {{{columns}}}")
            names, values = [name for name, _ in found], [value for _, value in found]
            yield line, [values[place] for place in self._where(line, names)]


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it is written: a key that stands twice in it is there twice."""

    def __repr__(self) -> str:
        return repr(dict(self))
