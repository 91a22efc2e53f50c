"""What planning asks of data that takes a while to read, kept in the cache."""

from __future__ import annotations

import abc
import contextlib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine import cache
from bench.tasks.base import Task
from bench.tasks.texts import Divided, TextTask


class Kept(TextTask[Any, Any]):
    """A task whose fingerprint and counts are in the first line of a file of the cache, so that planning reads no data."""

    splits = Task.splits  # of so many texts all have some
    training_items = Task.training_items

    @property
    @abc.abstractmethod
    def kept(self) -> Path:
        """The file, named by all that the data comes from."""

    def keep(self, data: Divided, *lines: bytes) -> None:
        """Write the file: its first line for `data`, and `lines`."""
        first = json.dumps({"fingerprint": data.fingerprint, "counts": data.counts}).encode("ascii")
        cache.write(str(self.kept.relative_to(cache.folder())), b"\n".join([first, *lines]))

    def fingerprint(self) -> str:
        """A SHA-256 over every text, all that belongs to it, and its split; from the cache where it can be.

        Raises:
            TaskError: the data cannot be read.
        """
        return self._facts[0]

    def counts(self) -> Mapping[str, int]:
        """What became of the texts; from the cache where it can be.

        Raises:
            TaskError: the data cannot be read.
        """
        return self._facts[1]

    @functools.cached_property
    def _facts(self) -> tuple[str, Mapping[str, int]]:
        if "data" not in vars(self):
            with contextlib.suppress(OSError), self.kept.open("rb") as stream:
                if facts := facts_of(stream.readline(1000)):
                    return facts
        return self.data.fingerprint, self.data.counts


def facts_of(line: bytes) -> tuple[str, Mapping[str, int]] | None:
    """The fingerprint and the counts in a file's first line; None where it is damaged."""
    try:
        facts = json.loads(line)
        fingerprint, counts = facts["fingerprint"], facts["counts"]
        whole = cache.is_sha256(fingerprint) and all(type(count) is int for count in counts.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return (fingerprint, counts) if whole else None
