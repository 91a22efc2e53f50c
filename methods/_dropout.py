"""Whether dropout makes two passes differ, which some methods live by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan.context import Place


def present(place: Place, *, head: bool = True) -> bool:
    """Whether something drops out in training at `place`; without `head`, in the body."""
    for method in place.stage.modifiers:
        if method.name == "dropout":
            return bool(getattr(method, "p", 0))
    if getattr(place.stage.base, "dropout", 0):  # an adapter's own
        return True
    structure = place.structure
    if not structure.stacks:  # planning cannot tell
        return True
    return "body" in structure.drops or (head and "head" in structure.drops)


def problems(place: Place, *, head: bool = True) -> Iterator[str]:
    """Two passes through a model without dropout are one and the same."""
    if not present(place, head=head):
        yield (
            f"this {place.model} has no dropout, so two passes do not differ and nothing is to be learned from their "
            "difference; set some, as in `full + dropout(0.1)` or `lora(dropout=0.1)`"
        )
