"""4-bit integers, rounded to the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Claim, Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class Int4(Transform):
    """Round the blocks' linear layers to 4-bit integers, −7 to 7 steps: the plainest way, to hold others against.

    Each ``group_size`` weights of a row share a step, the largest of them is 7 steps, and no data is looked at. 64 is
    the block of ``nf4`` and ``fp4``, so that the three differ in their values alone. Each product unpacks the weights:
    less memory, more time. Embeddings and the task's head stay as they are.
    """

    name = "int4"
    paper = "https://arxiv.org/abs/2004.09602"
    example = "full >> int4"
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    group_size: Literal[32, 64, 128] = 64

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from linear_blocks(context)
        yield from _quantized.casting(context)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from methods.compression.quantization._shared import packing

        def rounded(layer: nn.Linear) -> nn.Module:
            weight = layer.weight.detach()
            scale = packing.steps(weight, 4, self.group_size)
            codes = packing.nearest(weight, packing.spread(scale, self.group_size, layer.in_features), 4)
            return packing.PackedLinear(layer, codes, scale, bits=4, group_size=self.group_size)

        _quantized.replace(work, self.name, rounded)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold 4 bits a weight, and multiply by their weights rounded to them."""
        from methods.compression.quantization._shared import packing

        yield from packing.claims(before, work, self.name, 4, self.group_size)
        yield _quantized.rounded(
            before,
            work,
            self.name,
            "4 bits",
            lambda weight: packing.on_grid(weight, 7, self.group_size),
        )
