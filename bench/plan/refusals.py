"""Why a method cannot run: by what it declares, which is read here, and by what it says itself."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from typing import TYPE_CHECKING

from bench.recipe.declarations import Fact
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.facts import with_inner

if TYPE_CHECKING:
    from bench.plan.context import PlanContext
    from bench.recipe.method import Method

_FORMS: frozenset[Fact] = frozenset({"quantized", "inference_only", "exported"})
"""Facts that mostly come together; the first of them that a method refuses says enough."""

_WORDS = frozenset({"method", "name", "model", "fold"})
_KNOWN = {"requires": _WORDS, "refuses": _WORDS, "refuses_beside": _WORDS | {"other"}}
"""The words in braces that each declaration's sentences may have."""


def problems(method: Method, context: PlanContext) -> Iterator[str]:
    """Why `method` cannot run at `context`, in a sentence each.

    Raises:
        RecipeError: a sentence that `method` declares has a word in braces that there is not.
    """
    declared = (why for each in with_inner(method) for why in _declared(each, context))
    reasons = [*dict.fromkeys(declared), *method.problems(context)]
    if method is context.stage.main:
        if {"inference_only", "half"} & (context.facts - method.removes - method.tolerates) and not reasons:
            reasons = ["the model that arrives is made for inference only; put this before what made it so"]
        if "ensemble" in context.facts:
            reasons = [
                "an ensemble is the end of a recipe; put `ensemble` on the last training, and compress before it"
            ]
    yield from reasons


def _declared(method: Method, context: PlanContext) -> Iterator[str]:
    """Of what `method` requires, the first that is missing; all that it refuses."""
    _check_words(method)
    words = {"method": method, "name": method.name, "model": context.model, "fold": context.fold(method)}
    facts = context.facts
    for fact, why in method.requires:
        if fact not in facts:
            yield why.format(**words)
            break
    for fact, why in method.refuses:
        if fact in facts:
            yield why.format(**words)
            facts -= _FORMS if fact in _FORMS else frozenset()
    for trait, why in method.refuses_beside:
        for other in context.stage.methods:
            if other is not method and trait in other.traits:
                yield why.format(**words, other=other.name)


def _check_words(method: Method) -> None:
    """Look at all sentences that `method` declares, though few of them are said."""
    for declared, known in _KNOWN.items():
        for _, why in getattr(method, declared):
            where = f"{method.name}: `{declared}` of its class has the sentence `{why}`"
            try:
                found = {word for _, word, _, _ in Formatter().parse(why) if word is not None}
            except ValueError as error:
                raise RecipeError(f"{where}: {error}; write a brace that is meant twice") from None
            for word in sorted(found - known):
                raise RecipeError(f"{where} with the unknown word `{{{word}}}`{nearest(word, known)}")
