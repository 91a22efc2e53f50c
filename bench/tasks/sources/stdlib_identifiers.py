"""Functions of Python's standard library: what is each identifier?"""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import tokenize
from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.items import Item
from bench.tasks.kinds.token_classification import OUTSIDE, TokenClassification, tagged
from bench.tasks.sources.library import Module, OfLibrary

FEWEST, MOST = 10, 60
"""Tokens of a function: of shorter ones there is little to say, and longer ones do not fit."""

_SKIPPED = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.JoinedStr)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class StdlibIdentifiers(OfLibrary, TokenClassification):
    """Short functions as tokens of Python, and what each identifier stands for there.

    Tags: ``function``, ``class``, ``argument``, ``local`` for a variable, ``attribute``, ``keyword`` for the name of an
    argument in a call, ``module``, ``imported`` from a module, ``builtin`` and ``global``; all other tokens are ``O``. Strings
    are empty, comments are left out, and functions that hold others, lambdas or f-strings are too.
    """

    name = "stdlib-identifiers"
    summary: ClassVar[str] = "functions of Python's standard library; what is each identifier?"
    primary = "macro_f1"

    def read(self) -> Iterator[Item]:
        """Every short function.

        Raises:
            TaskError: a package is missing.
        """
        for module in self.modules():
            known = _known(module.tree)
            for node in ast.walk(module.tree):
                if isinstance(node, Function) and not any(
                    isinstance(inner, _INNER) for inner in list(ast.walk(node))[1:]
                ):
                    found = list(_roles(module, node, known))
                    if FEWEST <= len(found) <= MOST:
                        yield tagged(*zip(*found, strict=True))


def _known(tree: ast.Module) -> dict[str, str]:
    """What the names are that a module gives to all its functions."""
    found = dict.fromkeys(dir(builtins), "builtin")
    for node in tree.body:
        if isinstance(node, Function):
            found[node.name] = "function"
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class"
        else:
            found |= {name: role for inner in ast.walk(node) for name, role in _imported(inner)}
    return found


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Names that a statement imports, each with what it is."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            yield name, "module" if isinstance(node, ast.Import) else "imported"


def _roles(module: Module, function: Function, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each token of `function`, and its tag."""
    nodes = list(ast.walk(function))
    shared = {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    names = known | dict.fromkeys((stored | caught) - shared, "local")
    names |= {name: role for node in nodes for name, role in _imported(node)}
    names |= {node.arg: "argument" for node in nodes if isinstance(node, ast.arg)}
    # An attribute is where its node ends, and the name of an argument in a call where its node begins.
    attributes = {(node.end_lineno, node.end_col_offset) for node in nodes if isinstance(node, ast.Attribute)}
    keywords = {(node.lineno, node.col_offset) for node in nodes if isinstance(node, ast.keyword) and node.arg}
    first = min((node.lineno for node in function.decorator_list), default=function.lineno)
    lines = io.StringIO(module.source).readlines()[first - 1 : function.end_lineno]
    if not all(line.isascii() for line in lines):
        return  # ast counts bytes
    margin = len(lines[0]) - len(lines[0].lstrip())
    before = ""
    # Without the margin, which is no indentation of the function's own; strings may have less.
    text = "".join(line if line[:margin].strip() else line[margin:] or "\n" for line in lines)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _SKIPPED:
            continue
        (row, start), (_, end) = token.start, token.end
        line = row + first - 1
        if token.type == tokenize.STRING:
            yield '""', OUTSIDE
        elif token.type != tokenize.NAME or keyword.iskeyword(token.string):
            yield token.string, OUTSIDE
        elif before == "def":
            yield token.string, "function"
        elif (line, end + margin) in attributes and before == ".":
            yield token.string, "attribute"
        elif (line, start + margin) in keywords:
            yield token.string, "keyword"
        else:
            yield token.string, names.get(token.string, "global")
        before = token.string
