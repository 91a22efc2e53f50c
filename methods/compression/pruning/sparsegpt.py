"""Pruning that moves the weights it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from bench.stage.evidence import Claim
from methods import _coverage, _masks, _statistics
from methods._calibration import Calibrated

if TYPE_CHECKING:
    import torch

    from bench.stage.work import Work


@dataclass(frozen=True)
class SparseGPT(Calibrated, _masks.Pruning):
    """Set weights to zero one column after the other, and move the rest of each row to make up for it.

    What a weight's loss does to the layer's outputs is known from the products of its inputs (the optimal brain
    surgeon's Hessian); the lowest of each 128 columns go. Blocks are pruned first to last, each on what the pruned ones
    before it give. ``samples`` are items of ``data``, 128 as in the paper (Frantar and Alistarh 2023), and ``damp`` is what
    the Hessian's diagonal is raised by, 0.01 of its mean as there. Nothing gets faster by it: dense kernels multiply
    by zero as fast as by anything. A later training keeps the zeros.
    """

    name = "sparsegpt"
    paper = "https://arxiv.org/abs/2301.00774"
    example = "full >> sparsegpt(0.5)"

    amount: Annotated[float, Gt(0), Lt(1)]
    damp: Annotated[float, Gt(0)] = 0.01

    def prune(self, work: Work, amount: float) -> None:
        """Measure the products of inputs, zero and move, block by block."""
        import torch

        from methods.compression.pruning._shared import obs

        def choose(scores: torch.Tensor) -> torch.Tensor:
            flat = scores.flatten()
            going = flat.topk(round(amount * flat.numel()), largest=False).indices
            return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, going, True).view_as(scores)

        for block in _masks.by_block(work.model):
            products = _statistics.collect(work, block, self.calibration, _masks.products)
            with torch.no_grad():
                for name, layer in block.items():
                    weight = layer.weight.float()
                    layer.weight.copy_(obs.solve(weight, products[name], choose, at_once=128, damp=self.damp))

    def pattern(self, work: Work) -> Iterator[Claim]:
        """Each layer's share of zeros is the amount."""
        yield _masks.share_is(self.amount, [[weight] for weight in _coverage.weights(work.model).values()], 128)

    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """The kept weights make up for the zeros, as the formula says, and those are zero that cost least."""
        yield from _masks.made_up(work, originals, self.calibration, self.damp, together=128, flat=True)
