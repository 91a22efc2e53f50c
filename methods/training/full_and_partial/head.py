"""Training the task's head alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _own_weights, _refusals

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Head(Trainer):
    """Train the task's head on the frozen body: linear probing.

    The head starts from random weights and nothing else moves, so its default rate is far above full fine-tuning's.
    """

    name = "head"
    paper = "https://arxiv.org/abs/1610.01644"
    example = "head"
    traits = frozenset({"frozen_body"})
    refuses = (
        ("adapter", "the head of a model with an adapter on it belongs to the adapter; {fold}"),
        ("inference_only", _refusals.INFERENCE_ONLY),
    )
    divisible_by = frozenset({"devices", "replicas", "shards", "tensors"})

    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """A new head is the task's own; a pretrained one may be the model's embeddings."""
        if not context.task.new_head and context.config.get("tie_word_embeddings"):
            yield "the head of this model is its embeddings, which are its body's; train more of it, as in `top_layers(1)`"

    def on_model(self, training: Training) -> None:
        """Unfreeze what lies outside of the body, and a pooler that was made new."""
        for parameter in _head(training.model).values():
            parameter.requires_grad_(True)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The head moved, and every other tensor is bit-identical."""
        head = _own_weights.outside_body(work.model) | _own_weights.drawn(work.model)
        yield from _own_weights.claims(before, work, head, "the head's weights")


def _head(model: nn.Module) -> dict[str, nn.Parameter]:
    from bench.models.architecture import head_parameters, new_parameters

    return head_parameters(model) | new_parameters(model)
