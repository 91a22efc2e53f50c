"""Pruning by weights and activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from bench.stage.evidence import Claim
from methods import _masks, _statistics
from methods._calibration import Calibrated

if TYPE_CHECKING:
    import torch

    from bench.stage.work import Work


@dataclass(frozen=True)
class Wanda(Calibrated, _masks.Pruning):
    """Set weights to zero whose size times the norm of the input that they meet is smallest, in each row alone.

    The score is ``|W| · ‖X‖₂`` (Sun et al. 2023) over ``samples`` items of ``data``, 128 as in the paper; blocks are
    pruned first to last, each on what the pruned ones before it give. No weight that is kept changes. Nothing gets
    faster by it: dense kernels multiply by zero as fast as by anything. A later training keeps the zeros.
    """

    name = "wanda"
    paper = "https://arxiv.org/abs/2306.11695"
    example = "full >> wanda(0.5)"
    divisible_by = frozenset({"devices"})
    tolerates = frozenset({"half"})

    amount: Annotated[float, Gt(0), Lt(1)]

    def prune(self, work: Work, amount: float) -> None:
        """Measure the norms and zero, block by block."""
        for block in _masks.by_block(work.model):
            squares = _statistics.collect(work, block, self.calibration, _masks.squares)
            for name, layer in block.items():
                scores = layer.weight.detach().float().abs() * squares[name].sqrt()
                _masks.zero_lowest(layer, scores, round(amount * layer.in_features))

    def pattern(self, work: Work) -> Iterator[Claim]:
        """Every row has its share of zeros."""
        yield _masks.rows_have(work, self.amount)

    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """In no row was a weight zeroed that scored more than one that was kept."""
        yield _masks.unchanged(work, originals)
        yield _masks.lowest("each row's lowest |W|·‖X‖", _masks.by_norms(work, originals, self.calibration), 1e-4)
