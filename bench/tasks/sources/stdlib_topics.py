"""Docstrings of the running Python's own standard library: which package is each from?

The data is on every machine already, is real text, and is large enough to tell methods apart.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from bench.tasks.base import TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification

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

_SHORTEST = 30  # characters
_TESTS = {"test", "tests", "idle_test"}
_FORMAT = 3  # of the cache file; also to be raised when other docstrings are taken or they are divided otherwise


class StdlibTopics(Classification):
    """Some 2,000 docstrings of 30 characters or more: of modules, classes and functions outside test folders.

    They differ a little between Python versions, so results do not compare across those; the fingerprint says
    so. Collecting them takes about a second, once: they are kept in :mod:`bench.machine.cache` until a source file
    changes.
    """

    name = "stdlib-topics"
    summary: ClassVar[str] = "docstrings of Python's standard library; which of ten packages is each from?"

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(sysconfig.get_path("stdlib"))

    def problems(self) -> list[str]:
        """Name packages whose sources are missing."""
        missing = [name for name in PACKAGES if not (self.root / name / "__init__.py").is_file()]
        return without_sources(self.name, self.root, missing)

    def read(self) -> Iterator[Item]:
        """Every docstring with the name of its package.

        Raises:
            TaskError: a package is missing.
        """
        for problem in self.problems():
            raise TaskError(problem)
        for name in PACKAGES:
            for file in sorted(entry.path for entry in sources(str(self.root / name))):
                yield from (Item((text,), name) for text in _docstrings(Path(file).read_bytes()))

    def kept_as(self) -> str:
        """A file by the Python version and by name, size and time of every source file."""
        stats = sorted(
            (os.path.relpath(entry.path, self.root), stat.st_size, stat.st_mtime_ns)
            for name in PACKAGES
            for entry in sources(str(self.root / name))
            for stat in [entry.stat()]
        )
        identity = repr((_FORMAT, sys.version, stats)).encode("utf-8", "surrogateescape")
        return f"stdlib-topics/{hashlib.blake2b(identity, digest_size=16).hexdigest()}.arrow"


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


def _docstrings(source: bytes) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a source's own, on its escape sequences
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").strip()
            if len(text) >= _SHORTEST:
                yield text
