"""What is true of a model at the end of a recipe's stages, as their methods declare it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.recipe.declarations import Fact
from bench.recipe.method import Method, Trainer, Transform

if TYPE_CHECKING:
    from bench.recipe.recipe import Stage


def facts_after(stages: Sequence[Stage], facts: frozenset[Fact] = frozenset()) -> frozenset[Fact]:
    """What is true of the model at the end of `stages`, where these `facts` are true of it before them."""
    for stage in stages:
        for method in stage.methods:
            facts = (facts - method.removes) | method.adds
    return facts


def stages_in_effect(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages whose work the model at the end of `stages` still carries: those since another model took its place."""
    replaced = [
        depth for depth, stage in enumerate(stages) if isinstance(stage.main, Trainer) and stage.main.replaces_model
    ]
    return stages[replaced[-1] :] if replaced else stages


def ships_without_base_model(stages: Sequence[Stage]) -> bool:
    """Whether what `stages` end with can be had without its base: an adapter on a model as it was published.

    Quantizing a model while it is loaded can be done again by whoever loads it. All else that came before the adapter
    made another base, which has to be shipped too.
    """
    if "adapter" not in facts_after(stages):
        return False
    adapted = max(depth for depth, stage in enumerate(stages) if "adapter" in stage.main.adds)
    return all(isinstance(stage.main, Transform) and stage.main.at_load for stage in stages[:adapted])


def stages_before_compression(stages: Sequence[Stage]) -> int | None:
    """How many of `stages` make the model that the others make smaller, or faster; None where none does that.

    They are those before the first transform, or before the first trainer that puts another model in its place.
    """
    for depth, stage in enumerate(stages):
        if isinstance(stage.main, Transform) or (isinstance(stage.main, Trainer) and stage.main.replaces_model):
            return depth
    return None


def with_inner(method: Method) -> Iterator[Method]:
    """`method`, and the methods in its arguments."""
    yield method
    for value in vars(method).values():
        if isinstance(value, Method):
            yield from with_inner(value)
