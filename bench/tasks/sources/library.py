"""What tasks that are made of the Python standard library's own sources share.

The data is on every machine already, is real text, and is large enough to tell methods apart. It differs a little between
Python versions, so results do not compare across those; the fingerprint says so.
"""

from __future__ import annotations

import abc
import ast
import hashlib
import os
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.tasks.base import TaskError
from bench.tasks.items import Item

PACKAGES = (
    "asyncio",
    "email",
    "encodings",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
"""Every CPython from 3.11 to 3.14 ships these. ``tkinter`` is left out: Debian and others split it off."""

_TESTS = {"test", "tests", "idle_test"}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of the library: its dotted name, its package, its source and what that parses to."""

    name: str
    package: str
    source: str
    tree: ast.Module

    def docstrings(self, shortest: int) -> Iterator[tuple[Documented, str]]:
        """Every docstring of at least `shortest` characters, with what it documents."""
        for node in ast.walk(self.tree):
            if isinstance(node, Documented):
                text = (ast.get_docstring(node) or "").strip()
                if len(text) >= shortest:
                    yield node, text


class OfLibrary(abc.ABC):
    """Of a task on the modules of :data:`PACKAGES`: stands before its kind among the bases.

    Reading takes a second or two, once: the items are kept in :mod:`bench.machine.cache` until a source file changes.
    """

    name: str
    format: ClassVar[int] = 1
    """Of the kept items; to be raised when the same sources would become other items, or these are divided otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(sysconfig.get_path("stdlib"))

    def problems(self) -> list[str]:
        """Name packages whose sources are missing."""
        missing = [name for name in PACKAGES if not (self.root / name / "__init__.py").is_file()]
        return without_sources(self.name, self.root, missing)

    def modules(self) -> Iterator[Module]:
        """Every module outside of test folders, by package and name.

        Raises:
            TaskError: a package is missing.
        """
        for problem in self.problems():
            raise TaskError(problem)
        for package in PACKAGES:
            for file in sorted(entry.path for entry in sources(str(self.root / package))):
                with tokenize.open(file) as stream:
                    source = stream.read()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a source's own, on its escape sequences
                    tree = ast.parse(source)
                parts = Path(file).relative_to(self.root).with_suffix("").parts
                yield Module(".".join(part for part in parts if part != "__init__"), package, source, tree)

    @abc.abstractmethod
    def read(self) -> Iterator[Item]:
        """Every item of :meth:`modules`.

        Raises:
            TaskError: a package is missing.
        """

    def kept_as(self) -> str:
        """A file by the Python version and by name, size and time of every source file."""
        stats = sorted(
            (os.path.relpath(entry.path, self.root), stat.st_size, stat.st_mtime_ns)
            for name in PACKAGES
            for entry in sources(str(self.root / name))
            for stat in [entry.stat()]
        )
        return kept_by(self.name, self.format, stats)


def kept_by(name: str, format_: int, stats: Sequence[tuple[str, int, int]]) -> str:
    """A file in the cache for the task called `name`, by the Python version and by name, size and time of its source files."""
    identity = repr((format_, sys.version, stats)).encode("utf-8", "surrogateescape")
    return f"{name}/{hashlib.blake2b(identity, digest_size=16).hexdigest()}.arrow"


def without_sources(name: str, root: Path, missing: Sequence[str]) -> list[str]:
    """What the task called `name` says of modules whose sources are `missing`; nothing where none is."""
    if not missing:
        return []
    return [f"{name}: {root} has no sources of {', '.join(missing)}; use a Python with its whole standard library"]


def sources(folder: str) -> Iterator[os.DirEntry[str]]:
    """The Python files of a folder and the folders in it, those of tests left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            if entry.name not in _TESTS:
                yield from sources(entry.path)
        elif entry.name.endswith(".py"):
            yield entry
