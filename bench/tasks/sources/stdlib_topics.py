"""Docstrings of the running Python's own standard library: which package is each from?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.items import Item
from bench.tasks.kinds.classification import Classification
from bench.tasks.sources.library import PACKAGES as PACKAGES
from bench.tasks.sources.library import OfLibrary

SHORTEST = 30  # characters


class StdlibTopics(OfLibrary, Classification):
    """Some 2,000 docstrings of 30 characters or more: of modules, classes and functions outside test folders."""

    name = "stdlib-topics"
    summary: ClassVar[str] = "docstrings of Python's standard library; which of ten packages is each from?"
    format = 3

    def read(self) -> Iterator[Item]:
        """Every docstring with the name of its package.

        Raises:
            TaskError: a package is missing.
        """
        for module in self.modules():
            yield from (Item((text,), module.package) for _, text in module.docstrings(SHORTEST))
