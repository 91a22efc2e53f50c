"""Docstrings of Python's standard library: which of four modules is each from?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.alike import comparable
from bench.tasks.items import Item
from bench.tasks.kinds.multiple_choice import MultipleChoice, chosen
from bench.tasks.sources.library import OfLibrary
from bench.tasks.sources.stdlib_topics import SHORTEST

CHOICES = 4


class StdlibModules(OfLibrary, MultipleChoice):
    """Each docstring with the name of its module among those of three other modules, which its text draws.

    A docstring that stands in several modules is left out.
    """

    name = "stdlib-modules"
    summary: ClassVar[str] = "docstrings of Python's standard library; which of four modules is each from?"

    def read(self) -> Iterator[Item]:
        """Every docstring with four modules.

        Raises:
            TaskError: a package is missing.
        """
        found: dict[str, tuple[str, set[str]]] = {}
        for module in self.modules():
            for _, text in module.docstrings(SHORTEST):
                found.setdefault(comparable(text), (text, set()))[1].add(module.name)
        own = {text: of.pop() for text, of in found.values() if len(of) == 1}
        names = sorted(own.values())
        for text, name in own.items():
            draw = random.Random(text)
            # As often as they are right, or the names alone would tell.
            others = [name]
            while len(others) < CHOICES:
                if (other := draw.choice(names)) not in others:
                    others.append(other)
            draw.shuffle(others)
            yield chosen(text, others, others.index(name))
