"""Whether a stage can be divided among processes as its recipe says, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bench.distributed.group import batch_parts
from bench.machine.machine import Machine
from bench.recipe.declarations import Axis
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Method, Transform

if TYPE_CHECKING:
    from bench.plan.context import PlanContext
    from bench.recipe.recipe import Stage


TOGETHER: frozenset[frozenset[Axis]] = frozenset(
    {
        frozenset({"replicas", "layers"}),
        frozenset({"replicas", "shards"}),
        frozenset({"replicas", "tensors"}),
        frozenset({"shards", "tensors"}),
        frozenset({"replicas", "shards", "tensors"}),
    }
)
"""The ways to divide a stage that go together."""


Shortage = Callable[["Stage", Machine], str]
"""What those machines lack for a stage that are to run it, where they are like this one; "" where they have all."""


def shortage(stage: Stage, machine: Machine) -> str:
    """What `machine` lacks for `stage`."""
    if machine.device == "cuda" and stage.gpus > max(1, machine.gpus):
        said = f"it takes {stage.gpus} GPUs, and this machine shows {machine.gpus}"
        return f"{said}; take fewer, or a cluster that has them: --executor ray"
    return ""


def problems(context: PlanContext, shortage: Shortage = shortage) -> Iterator[str]:
    """Why the stage cannot be divided so at `context`, or there is no room for it, as `shortage` says.

    Each begins with the name of what stands in the way.
    """
    layout = context.stage.layout
    if missing := shortage(context.stage, context.machine):
        taking = [modifier.name for modifier in context.stage.modifiers if modifier.axis or modifier.gpus > 1]
        yield f"{' + '.join(taking) or context.stage.main.name}: {missing}"
    if not layout:
        return
    dividing = {modifier.name: modifier.axis for modifier in context.stage.modifiers if modifier.axis}
    names = " + ".join(dividing)
    if len(dividing) > 1 and (len(layout) < len(dividing) or frozenset(layout) not in TOGETHER):
        yield f"{names}: a stage cannot be divided in these ways at once; take one of them"
    if context.batch_size % (parts := batch_parts(layout)):
        yield (
            f"{names}: a batch of {context.batch_size} cannot be divided into {parts} equal slices; "
            f"make budget.batch_size a multiple of {parts}"
        )
    if context.items is not None and context.items < parts:
        yield (
            f"{names}: {parts} processes cannot have items of their own where training has {context.items}; "
            "add items or take fewer processes"
        )
    for method in at_work(context):
        if any(axis not in method.divisible_by for axis in layout) and method.name not in dividing:
            yield f"{method.name}: it is not known to be right in a training that {names} divides; leave one of them out"


def at_work(context: PlanContext) -> Iterator[Method]:
    """The methods of the stage, and the transforms before it that have something to do while it trains."""
    yield from context.stage.methods
    *before, _ = stages_in_effect((*context.before, context.stage))
    for stage in before:
        for method in stage.methods:
            yield from filter(_trains, method.maintained())


def _trains(kept: Transform) -> bool:
    """Whether it has something to do while a later stage trains."""
    hooks = [name for name in vars(Method) if name.startswith(("on_", "between_"))]
    return any(getattr(type(kept), hook) is not getattr(Method, hook) for hook in hooks)
