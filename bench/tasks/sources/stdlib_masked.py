"""Docstrings of Python's standard library with gaps, in two parts: what stood there, and do they follow one another?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.items import Item
from bench.tasks.kinds.masked_lm import PairedLM
from bench.tasks.sources.library import OfLibrary
from bench.tasks.sources.stdlib_topics import SHORTEST


class StdlibMasked(OfLibrary, PairedLM):
    """Docstrings of two sentences or more, cut at the end of one; half get the second part of another docstring."""

    name = "stdlib-masked"
    summary: ClassVar[str] = "docstrings of Python's standard library; fill gaps, and tell whether two parts follow"

    def read(self) -> Iterator[Item]:
        """Every docstring.

        Raises:
            TaskError: a package is missing.
        """
        for module in self.modules():
            yield from (Item((text,), None) for _, text in module.docstrings(SHORTEST))
