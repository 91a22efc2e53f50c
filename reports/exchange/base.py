"""What others measured, and how their files are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine.output import visible
from bench.metrics.units import show
from bench.record.errors import RecordError


@dataclass(frozen=True)
class Value:
    """One figure: its name in the file, its unit, and the name of our metric where that is defined the same; else empty."""

    name: str
    value: float
    unit: str
    metric: str = ""

    @property
    def title(self) -> str:
        """Their name of it, and ours where it is defined the same."""
        if not self.metric:
            return self.name
        return f"{self.name} (as ours)" if self.metric == self.name else f"{self.name} (as our {self.metric})"

    def __str__(self) -> str:
        return show(self.value, self.unit)


@dataclass(frozen=True)
class Foreign:
    """One thing that others measured: who says so, of what and on which machine, as far as the file says it; else empty."""

    file: str
    tool: str
    version: str
    date: str
    name: str
    model: str
    task: str
    machine: str
    values: tuple[Value, ...]

    @property
    def source(self) -> str:
        """The tool with its version, the day, the machine, and the file."""
        parts = f"{self.tool} {self.version}".strip(), self.date, self.machine and f"on {self.machine}", self.file
        return ", ".join(part for part in parts if part)


class Part:
    """An object in a file, and where it stands there, for errors. Texts come as they may be shown."""

    def __init__(self, file: Path, found: Mapping[str, Any], mend: str, at: str = "") -> None:
        self.file = file
        self.found = found
        self._mend = mend
        self._at = at

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def wrong(self, key: str, what: str) -> RecordError:
        """An error that names the file, the key and the mend."""
        return RecordError(f"{self.file}: `{self._place(key)}` {what}; {self._mend}")

    def part(self, key: str) -> Part:
        """The object under `key`.

        Raises:
            RecordError: it is missing, or is no object.
        """
        if key not in self.found:
            raise self.wrong(key, "is missing")
        if not isinstance(self.found[key], dict):
            raise self.wrong(key, f"is no object, but {_short(self.found[key])}")
        return Part(self.file, self.found[key], self._mend, self._place(key))

    def maybe(self, key: str) -> Part:
        """The object under `key`; an empty one where it is missing or null.

        Raises:
            RecordError: it is something else.
        """
        return Part(self.file, {}, self._mend, self._place(key)) if self.found.get(key) is None else self.part(key)

    def text(self, key: str) -> str:
        """What is under `key`, as text; empty where there is nothing, or an object."""
        value = self.found.get(key)
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ", ".join(dict.fromkeys(value))
        return visible(str(value)) if isinstance(value, str | int | float) else ""

    def number(self, key: str) -> float | None:
        """The number under `key`; None where there is none, or it is not finite.

        Raises:
            RecordError: it is something else.
        """
        value = self.found.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, f"is no number, but {_short(value)}")
        return float(value) if math.isfinite(value) else None

    def values(self, *wanted: tuple[str, str] | tuple[str, str, str]) -> Iterator[Value]:
        """Those that are there of `wanted`: each key with its unit, and with our metric where that is the same."""
        for key, unit, *metric in wanted:
            if (value := self.number(key)) is not None:
                yield Value(key, value, unit, *metric)

    def _place(self, key: str) -> str:
        return f"{self._at}.{key}" if self._at else key


def _short(value: object) -> str:
    return repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}…"
