"""Docstrings of the running Python's own standard library, of which the first line is to be written."""

from __future__ import annotations

import ast
import os
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.tasks.base import TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.instruction_tuning import InstructionTuning, conversation
from bench.tasks.kinds.seq2seq import SequenceToSequence
from bench.tasks.sources.library import Documented, kept_by, without_sources
from bench.tasks.sources.stdlib_code import missing_modules, source_files

_FORMAT = 1  # of the kept items; raised when other items are made of the same sources
_SHORTEST_BODY = 60  # characters of what a summary is of
_LONGEST_FUNCTION = 1500  # characters
_ROOT = Path(sysconfig.get_path("stdlib"))
_ASK = "Write the first line of the docstring of this Python function.\n\n"


class StdlibSummaries(SequenceToSequence):
    """Some 1,900 docstrings that begin with a line of its own: from what follows that line, write it.

    They differ a little between Python versions, so results do not compare across those; the fingerprint says so.
    """

    name = "stdlib-summaries"
    summary: ClassVar[str] = "docstrings of Python's standard library; write the first line from the others"
    template = "summarize: {text}"
    max_target_length = 32

    def problems(self) -> list[str]:
        """Name modules whose sources are missing."""
        return without_sources(self.name, _ROOT, missing_modules(_ROOT)) or super().problems()

    def read(self) -> Iterator[Item]:
        """The rest of each docstring with its first line."""
        for _, node in _documented(self.name):
            first, body = _first_line(node)
            if len(body) >= _SHORTEST_BODY:
                yield Item((body,), first)

    def kept_as(self) -> str:
        """A file by the Python version and all source files."""
        return _kept_as(self.name)


class StdlibDocstrings(InstructionTuning):
    """Some functions of the standard library without their docstrings: write its first line."""

    name = "stdlib-docstrings"
    summary: ClassVar[str] = "functions of Python's standard library; write the first line of the docstring"

    def problems(self) -> list[str]:
        """Name modules whose sources are missing."""
        return without_sources(self.name, _ROOT, missing_modules(_ROOT)) or super().problems()

    def read(self) -> Iterator[Item]:
        """The code of each function with the first line of its docstring."""
        for source, node in _documented(self.name):
            first, _ = _first_line(node)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1 and first:
                lines = source.splitlines()
                docstring = node.body[0]
                kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
                code = textwrap.dedent("\n".join(kept)).strip()
                if len(code) <= _LONGEST_FUNCTION:
                    yield conversation(
                        [{"role": "user", "content": _ASK + code}, {"role": "assistant", "content": first}]
                    )

    def kept_as(self) -> str:
        """A file by the Python version and all source files."""
        return _kept_as(self.name)


def _documented(name: str) -> Iterator[tuple[str, Documented]]:
    """What has a docstring, with the source that it is in.

    Raises:
        TaskError: a module is missing.
    """
    for problem in without_sources(name, _ROOT, missing_modules(_ROOT)):
        raise TaskError(problem)
    for file in source_files(_ROOT):
        content = Path(file).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a source's own, on its escape sequences
            tree = ast.parse(content)
        source = content.decode(_encoding(content))
        for node in ast.walk(tree):
            if isinstance(node, Documented) and ast.get_docstring(node):
                yield source, node


def _encoding(content: bytes) -> str:
    import io
    import tokenize

    return tokenize.detect_encoding(io.BytesIO(content).readline)[0]


def _first_line(node: Documented) -> tuple[str, str]:
    """The first line of a docstring and what follows a blank line after it; nothing where it begins with several lines."""
    first, _, body = (ast.get_docstring(node) or "").strip().partition("\n\n")
    return ("", "") if "\n" in first else (first.strip(), body.strip())


def _kept_as(name: str) -> str:
    stats = [
        (os.path.relpath(file, _ROOT), stat.st_size, stat.st_mtime_ns) for file, stat in source_files(_ROOT).items()
    ]
    return kept_by(name, _FORMAT, stats)
