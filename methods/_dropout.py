"""Whether dropout makes two passes differ, which some methods live by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan.context import PlanContext


def present(context: PlanContext, *, head: bool = True) -> bool:
    """Whether something drops out in training at `context`; without `head`, in the body."""
    for method in context.stage.modifiers:
        if "sets_dropout" in method.traits:
            return bool(getattr(method, "p", 0))
    if getattr(context.stage.main, "dropout", 0):  # an adapter's own
        return True
    structure = context.structure
    if not structure.stacks:  # planning cannot tell
        return True
    return "body" in structure.drops or (head and "head" in structure.drops)


def problems(context: PlanContext, *, head: bool = True) -> Iterator[str]:
    """Two passes through a model without dropout are one and the same."""
    if not present(context, head=head):
        yield (
            f"this {context.model} has no dropout, so two passes do not differ and nothing is to be learned from their "
            "difference; set some, as in `full + dropout(0.1)` or `lora(dropout=0.1)`"
        )
