"""Whether a stage can be divided among processes as its recipe says, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bench.distributed.group import slices
from bench.machine.machine import Machine
from bench.recipe.declarations import Split
from bench.recipe.facts import standing
from bench.recipe.method import Method, Transform

if TYPE_CHECKING:
    from bench.plan.context import Place
    from bench.recipe.recipe import Stage


TOGETHER: frozenset[frozenset[Split]] = frozenset(
    {
        frozenset({"replicas", "layers"}),
        frozenset({"replicas", "shards"}),
        frozenset({"replicas", "tensors"}),
        frozenset({"shards", "tensors"}),
        frozenset({"replicas", "shards", "tensors"}),
    }
)
"""The ways to divide a stage that go together."""


Lacks = Callable[["Stage", Machine], str]
"""What those machines lack for a stage that are to run it, where they are like this one; "" where they have all."""


def lacks(stage: Stage, machine: Machine) -> str:
    """What `machine` lacks for `stage`."""
    if machine.device == "cuda" and stage.gpus > max(1, machine.gpus):
        said = f"it takes {stage.gpus} GPUs, and this machine shows {machine.gpus}"
        return f"{said}; take fewer, or a cluster that has them: --executor ray"
    return ""


def problems(place: Place, lacks: Lacks = lacks) -> Iterator[str]:
    """Why the stage cannot be divided so at `place`, or there is no room for it, as `lacks` says.

    Each begins with the name of what stands in the way.
    """
    layout = place.stage.layout
    if missing := lacks(place.stage, place.machine):
        taking = [modifier.name for modifier in place.stage.modifiers if modifier.split or modifier.gpus > 1]
        yield f"{' + '.join(taking) or place.stage.base.name}: {missing}"
    if not layout:
        return
    dividing = {modifier.name: modifier.split for modifier in place.stage.modifiers if modifier.split}
    names = " + ".join(dividing)
    if len(dividing) > 1 and (len(layout) < len(dividing) or frozenset(layout) not in TOGETHER):
        yield f"{names}: a stage cannot be divided in these ways at once; take one of them"
    if place.batch_size % (parts := slices(layout)):
        yield (
            f"{names}: a batch of {place.batch_size} cannot be divided into {parts} equal slices; "
            f"make budget.batch_size a multiple of {parts}"
        )
    if place.items is not None and place.items < parts:
        yield (
            f"{names}: {parts} processes cannot have items of their own where training has {place.items}; "
            "add items or take fewer processes"
        )
    for method in at_work(place):
        if any(split not in method.across for split in layout) and method.name not in dividing:
            yield f"{method.name}: it is not known to be right in a training that {names} divides; leave one of them out"


def at_work(place: Place) -> Iterator[Method]:
    """The methods of the stage, and the transforms before it that have something to do while it trains."""
    yield from place.stage.methods
    *before, _ = standing((*place.before, place.stage))
    for stage in before:
        for method in stage.methods:
            yield from filter(_trains, method.carries())


def _trains(kept: Transform) -> bool:
    """Whether it has something to do while a later stage trains."""
    hooks = [name for name in vars(Method) if name.startswith(("on_", "between_"))]
    return any(getattr(type(kept), hook) is not getattr(Method, hook) for hook in hooks)
