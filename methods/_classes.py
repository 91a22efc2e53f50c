"""What methods that work on probabilities of classes share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.plan.context import PlanContext


def problems(context: PlanContext) -> Iterator[str]:
    """Without classes there are no probabilities."""
    if not context.task.predicts_classes:
        yield f"it works on probabilities of classes, and a {context.task.kind} task has no classes; leave it out"


def one_tensor(context: PlanContext) -> Iterator[str]:
    """What puts logits in the place of a model's needs to know where all of them are."""
    if context.task.logit_names != ("logits",):
        names = " and ".join(context.task.logit_names)
        yield f"it works on one tensor of logits, and a model of a {context.task.kind} task gives {names}; leave it out"


def one_text(context: PlanContext) -> Iterator[str]:
    """What looks inside of a model must know which token of which item is where."""
    if context.task.reads_choices:
        yield f"it works on one text for each item, and those of a {context.task.kind} task have several; leave it out"
