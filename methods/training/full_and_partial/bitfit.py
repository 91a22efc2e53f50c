"""Training biases alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _added, _own_weights, _refusals

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class BitFit(Trainer):
    """Train the biases and a new head, a thousandth of all weights, and nothing else.

    The rate is that of `head`, for short budgets, and is not tuned: few weights take far higher
    ones than many. Decoders of Llama's kind have no biases to train.
    """

    name = "bitfit"
    paper = "https://arxiv.org/abs/2106.10199"
    example = "bitfit"
    refuses = (
        ("adapter", _refusals.ADAPTER_ON_MODEL),
        ("inference_only", _refusals.INFERENCE_ONLY),
    )
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """There must be biases."""
        if context.structure.stacks and not context.structure.biases:
            yield f"the blocks of a {context.model} model have no biases; for few weights there are ia3 and lora(r=1)"

    def on_model(self, training: Training) -> None:
        """Unfreeze them."""
        for name, parameter in training.model.named_parameters():
            parameter.requires_grad_(_is_bias(name))
        for parameter in _added.new_weights(training.model).values():
            parameter.requires_grad_(True)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The biases and the head moved, and every other tensor is bit-identical."""
        from bench.models.architecture import unwrapped

        head = _own_weights.drawn(work.model)
        if unwrapped(work.model).get_output_embeddings() is None:
            head |= _own_weights.outside_body(work.model)
        biases = {name for name in _own_weights.names(work.model) if name.split(".")[-1] == "bias"}
        yield from _own_weights.claims(before, work, biases | head, "the biases and the head")


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
