"""Docstrings and signatures of Python's standard library: do the two belong to one function?"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.alike import comparable
from bench.tasks.base import hash_fraction
from bench.tasks.items import Item
from bench.tasks.kinds.classification import PairClassification
from bench.tasks.sources.library import Module, OfLibrary
from bench.tasks.sources.stdlib_topics import SHORTEST


class StdlibSignatures(OfLibrary, PairClassification):
    """Each docstring of a function with a signature: its own, or that of the next function of the module that has another one.

    A hash of the docstring says which, and each docstring is there once: so classes are balanced, and no training item tells
    the class of a test item.
    """

    name = "stdlib-signatures"
    summary: ClassVar[str] = "docstrings and signatures of Python's standard library; do they belong together?"

    def read(self) -> Iterator[Item]:
        """Every docstring of a function, of modules that have several.

        Raises:
            TaskError: a package is missing.
        """
        seen: set[str] = set()
        for module in self.modules():
            found = [(text, signature) for text, signature in _functions(module) if comparable(text) not in seen]
            seen.update(comparable(text) for text, _ in found)
            for place, (text, signature) in enumerate(dict(found).items()):
                following = [other for _, other in found[place + 1 :] + found[:place] if other != signature]
                if following:
                    own = hash_fraction(text) < 0.5
                    yield Item((text, signature if own else following[0]), "own" if own else "another's")


def _functions(module: Module) -> Iterator[tuple[str, str]]:
    """Docstring and signature of each function."""
    for node, text in module.docstrings(SHORTEST):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield text, f"def {node.name}({ast.unparse(node.args)}){returns}"
