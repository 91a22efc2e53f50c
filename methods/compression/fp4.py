"""4-bit floating point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.method import Place, Transform
from methods import _four_bits, _quantized

if TYPE_CHECKING:
    from bench.evidence import Claim, Snapshot
    from bench.work import Work


@dataclass(frozen=True)
class FP4(Transform):
    """Store the blocks' linear layers in 4-bit floats of a sign, two bits of exponent and one of mantissa.

    Weights are scaled by the largest of each 64; ``double_quant`` stores these scales in 8 bits. Each product unpacks
    its weights and is made in ``compute_dtype``. All else is as with ``nf4``. bitsandbytes' smallest value is a 192nd of
    the largest, where the format has a 12th, so normally distributed weights are rounded worse than by ``int4``, too.
    Embeddings and the task's head stay as they are. The model is loaded in full and then converted, so loading
    takes the memory of both. Built on bitsandbytes: https://huggingface.co/docs/bitsandbytes/reference/nn/linear4bit
    """

    name = "fp4"
    paper = "https://arxiv.org/abs/2212.09720"
    example = "full >> fp4"
    needs = ("bitsandbytes",)
    gives = frozenset({"quantized"})

    double_quant: bool = True
    compute_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    def problems(self, place: Place) -> Iterator[str]:
        """It needs plain weights."""
        yield from _quantized.problems(place, self.name)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        _four_bits.apply(work, self.name, double_quant=self.double_quant, compute_dtype=self.compute_dtype)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold 4-bit codes, and multiply by their weights rounded to them."""
        yield from _four_bits.claims(
            before, work, self.name, double_quant=self.double_quant, compute_dtype=self.compute_dtype
        )
