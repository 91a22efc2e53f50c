"""What is wrong with a recipe, and how an error offers the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar


class RecipeError(ValueError):
    """A recipe, a method or one of its arguments is wrong. The message says what in one line, and how to mend it.

    ``argument`` is the name of the argument that is wrong. ``place`` is where the error is in the recipe's text, as :mod:`ast`
    counts: lines from 1, columns in bytes from 0. Where the text is known, a note of the exception shows it with a caret at that place.
    """

    place: tuple[int, int] | None = None

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class Refusal(Exception):
    """A stage is refused when it is about to run: for what no plan can know, such as sizes that only the model shows.

    The message says why, and the mend, as :meth:`Method.problems` do where planning can tell.
    """


FORMER = {
    "checkpointing": "gradient_checkpointing",
    "compiled": "compile_inference",
    "dynamic_int8": "torch_int8_dynamic",
    "fake_int8": "qat_int8",
    "int4_weight_only": "torchao_int4_weight_only",
    "int8": "bnb_int8",
    "int8_dynamic": "torchao_int8_dynamic",
    "int8_weight_only": "torchao_int8_weight_only",
    "reference": "baseline",
}
"""What was renamed before the first release: an old name is unknown, and its error offers the new one."""


Error = TypeVar("Error", bound=Exception)


def told_as(kind: type[Error], before: str, error: Exception) -> Error:
    """`error` as one of another kind: `before` begins its message, and its notes go along."""
    told = kind(f"{before}{error}")
    for note in notes(error):
        told.add_note(note)
    return told


def notes(error: Exception) -> list[str]:
    """What was noted of an error, such as its place in a recipe."""
    return getattr(error, "__notes__", [])


def nearest(found: str, known: Iterable[str]) -> str:
    """A hint to append to an error: the nearest right spelling, or all of a short list of known ones."""
    known = sorted(known)
    close = [FORMER[found]] if FORMER.get(found) in known else difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    if not known:
        return ""
    return f"; known: {', '.join(known)}"


def first_line(error: Exception) -> str:
    """What another library's error says first; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
