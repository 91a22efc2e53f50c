"""Magnitude pruning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Lt

from bench.recipe.errors import Refusal
from bench.stage.evidence import Claim
from methods import _coverage, _masks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.work import Work


@dataclass(frozen=True)
class Magnitude(_masks.Pruning):
    """Set the smallest weights of the blocks' linear layers to zero: over all layers together, or in each alone.

    Nothing shrinks and nothing gets faster by it: dense kernels multiply by zero as fast as by anything. A later
    training keeps the zeros. The weights that go are those of ``torch.nn.utils.prune.L1Unstructured``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.prune.L1Unstructured.html
    """

    name = "magnitude"
    paper = "https://arxiv.org/abs/1506.02626"
    example = "full >> magnitude(0.5)"
    tolerates = frozenset({"half"})
    divisible_by = frozenset({"devices", "replicas", "shards"})

    amount: Annotated[float, Gt(0), Lt(1)]
    scope: Literal["global", "layer"] = "global"

    def extends(self, earlier: _masks.Masking) -> bool:
        """Over all layers, fewer zeros are the smallest weights whoever made them."""
        return super().extends(earlier) or (self.scope == "global" and earlier.share < self.amount)

    def cut(self, work: Work) -> None:
        """Prune by the amount, where there are not more zeros already."""
        weights = [layer.weight for layer in _masks.layers(work.model).values()]
        total = sum(weight.numel() for weight in weights)
        kept = sum(int(weight.count_nonzero()) for weight in weights)
        if total - kept > round(self.amount * total):
            zero = f"{1 - kept / total:.4f} of the weights are zero already"
            raise Refusal(f"{self.name}: {zero}, more than the amount of {self.amount:g}; raise it")
        super().cut(work)

    def prune(self, work: Work, amount: float) -> None:
        """Find the smallest and zero them."""
        for part in self._parts(_masks.layers(work.model)):
            weights = [layer.weight for layer in part.values()]
            count = round(amount * sum(weight.numel() for weight in weights))
            for weight, zero in zip(weights, _masks.smallest(weights, count), strict=True):
                _masks.restore([(weight, ~zero)])

    def pattern(self, work: Work) -> Iterator[Claim]:
        """The share of zeros is the amount, over all layers or in each."""
        weights = list(_coverage.weights(work.model).values())
        yield _masks.share_is(self.amount, [weights] if self.scope == "global" else [[weight] for weight in weights])

    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """No weight was zeroed that was larger than one that was kept."""
        yield _masks.unchanged(work, originals)
        now = _coverage.weights(work.model)
        groups = (
            (was.abs().reshape(1, -1), (now[name].detach().cpu() == 0).reshape(1, -1))
            for name, was in originals.items()
        )
        yield _masks.lowest("the smallest", groups, joined=self.scope == "global")

    def _parts(self, layers: dict[str, nn.Linear]) -> list[dict[str, nn.Linear]]:
        """Layers whose weights are compared with each other."""
        return [layers] if layers and self.scope == "global" else [{name: layer} for name, layer in layers.items()]
