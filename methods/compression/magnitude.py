"""Magnitude pruning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Lt

from bench.evidence import Claim, plain
from bench.method import Place, Transform

if TYPE_CHECKING:
    from torch import nn

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


@dataclass(frozen=True)
class Magnitude(Transform):
    """Set the smallest weights of the blocks' linear layers to zero: over all layers together, or in each alone.

    Nothing shrinks and nothing gets faster by it: dense kernels multiply by zero as fast as by anything. A later
    training keeps the zeros. Built on ``torch.nn.utils.prune``.
    """

    name = "magnitude"
    paper = "https://arxiv.org/abs/1506.02626"
    example = "full >> magnitude(0.5)"
    gives = frozenset({"sparse"})

    amount: Annotated[float, Gt(0), Lt(1)]
    scope: Literal["global", "layer"] = "global"

    def problems(self, place: Place) -> Iterator[str]:
        """It looks at plain weights."""
        if "adapter" in place.facts:
            yield "there is an adapter on the weights; fold it first, as in `lora >> merge >> magnitude(0.5)`"
        if "quantized" in place.facts:
            yield "quantized weights have no magnitudes to compare; prune first, as in `magnitude(0.5) >> dynamic_int8`"

    def apply(self, work: Work) -> None:
        """Find the smallest and zero them."""
        from torch.nn.utils import prune

        from bench.architecture import block_linears

        weights = [(layer, "weight") for layer in block_linears(work.model).values()]
        if self.scope == "global":
            prune.global_unstructured(weights, prune.L1Unstructured, amount=self.amount)  # type: ignore[no-untyped-call]
        for layer, name in weights:
            if self.scope == "layer":
                prune.l1_unstructured(layer, name, self.amount)  # type: ignore[no-untyped-call]
            prune.remove(layer, name)  # type: ignore[no-untyped-call]

    def on_model(self, training: Training) -> None:
        """Remember what is zero, of the weights that will train."""
        layers = _layers(training.model)
        training.notes[self.name] = [(w, w.detach() != 0) for w in (layer.weight for layer in layers.values()) if w.requires_grad]

    def on_step(self, training: Training) -> None:
        """Put the zeros back."""
        import torch

        with torch.no_grad():
            for weight, mask in training.notes.get(self.name, ()):
                weight.mul_(mask)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The share of zeros is the amount to 1e-3, and nothing outside of the blocks' linear layers changed."""
        names = {f"{plain(name)}.weight" for name in _layers(work.model)}
        total = sum(layer.weight.numel() for layer in _layers(work.model).values())
        zeros = total - sum(work.after.nonzero[name] for name in names)
        share = zeros / total
        yield Claim(f"{self.amount:g} of the weights are zero", abs(share - self.amount) <= 1e-3, f"{share:.4f}, {zeros:,} of {total:,}")
        others = before.changed(work.after) - names
        yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")

    def keeps(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """No zero came back in training."""
        names = {f"{plain(name)}.weight" for name in _layers(work.model)}
        grown = {name for name in names if work.after.nonzero[name] > before.nonzero[name]}
        yield Claim("the zeros were kept in training", not grown, f"{len(grown)} of {len(names)} layers have fewer")


def _layers(model: nn.Module) -> dict[str, nn.Linear]:
    from bench.architecture import block_linears

    # An adapter's own low-rank layers are no part of what was pruned.
    return {name: layer for name, layer in block_linears(model).items() if "lora_" not in name}
