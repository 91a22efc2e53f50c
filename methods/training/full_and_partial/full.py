"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _own_weights, _refusals

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Full(Trainer):
    """Update every weight.

    The default rate is the one that Devlin et al. recommend the upper end of (5e-5), raised fourfold for the small
    models and short budgets that suites here start from.
    """

    name = "full"
    paper = "https://arxiv.org/abs/1810.04805"
    example = "full"
    refuses = (
        ("inference_only", _refusals.INFERENCE_ONLY),
        (
            "quantized",
            "it trains every weight, and the weights are quantized here; put an adapter on them, as in `>> lora`",
        ),
        ("adapter", "there is an adapter on the weights, and both would train; {fold}"),
    )
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    updates_all_weights = True

    lr: Annotated[float, Gt(0)] = 2e-4
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def on_model(self, training: Training) -> None:
        """Unfreeze everything."""
        training.model.requires_grad_(True)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Every parameter trains, and moved."""
        yield from _own_weights.claims(before, work, set(_own_weights.names(work.model)), "all weights")
