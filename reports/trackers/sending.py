"""Send what was not sent yet."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from bench.compare.compare import Comparisons
from bench.recipe.errors import first_line
from bench.record.reading import Records, read
from reports.trackers import PACKAGES, tracker
from reports.trackers.base import Tracker, entries
from reports.trackers.sent import Sent


@dataclass(frozen=True)
class Told:
    """What became of one tracker: how many cells it was sent, has, and lacks; where it keeps them; and why some failed."""

    tracker: str
    sent: int
    had: int
    lacks: int
    place: str = ""
    why: str = ""


class Sender:
    """Sends the cells of a results folder to trackers."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        """
        Raises:
            RecordError: what was sent cannot be read.
        """
        self._folder = folder
        self._names = tuple(dict.fromkeys(names))
        self._sent = Sent(folder)
        self._records: Records | None = None
        self._trackers: dict[str, Tracker] = {}
        self._failed: dict[str, str] = {}
        for name in self._names:
            self._sent.note(name)

    def load(self) -> None:
        """Import what the trackers need, which takes seconds. What fails will fail again, and be told, where it is used."""
        for name in self._names:
            with contextlib.suppress(Exception):
                self._of(name)  # first, as it sets variables that a package reads where it is imported
                for package in PACKAGES[name]:
                    import_module(package)

    def send(self, node: str | None = None) -> list[Told]:
        """Send what changed since it was sent last. With a `node`, of the cells that have this stage, and not to a tracker that
        failed; else of all, and once more to those too.

        No error of a tracker is raised: it is told.

        Raises:
            RecordError: the records cannot be read. OSError: what was sent cannot be noted.
        """
        self._records = self._records.read_on() if self._records else read(self._folder)
        if node is None:
            self._failed.clear()
        sent, had, lacks = (dict.fromkeys(self._names, 0) for _ in range(3))
        for entry in entries(Comparisons(self._records), node):
            for name in self._names:
                if self._sent.has(name, entry.id, entry.digest):
                    had[name] += 1
                    continue
                if name not in self._failed:
                    try:
                        self._of(name).send(entry)
                    except Exception as error:  # of others' code, which may raise what it likes
                        self._failed[name] = f"{type(error).__name__}: {first_line(error)}"
                if name in self._failed:
                    lacks[name] += 1
                else:
                    self._sent.note(name, (entry.id, entry.digest))
                    sent[name] += 1
        return [
            Told(name, sent[name], had[name], lacks[name], self._place(name), self._failed.get(name, ""))
            for name in self._names
        ]

    def _of(self, name: str) -> Tracker:
        if name not in self._trackers:
            self._trackers[name] = tracker(name, self._folder)
        return self._trackers[name]

    def _place(self, name: str) -> str:
        return "" if name in self._failed else self._of(name).place


def lacking(folder: Path, names: Collection[str]) -> dict[str, int]:
    """How many cells each tracker was not sent yet.

    Raises:
        RecordError: the records, or what was sent, cannot be read.
    """
    sent, found = Sent(folder), list(entries(Comparisons(read(folder))))
    return {name: sum(not sent.has(name, entry.id, entry.digest) for entry in found) for name in names}
