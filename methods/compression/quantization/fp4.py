"""4-bit floating point."""

from __future__ import annotations

from dataclasses import dataclass

from methods.compression.quantization._shared import four_bits


@dataclass(frozen=True)
class FP4(four_bits.FourBits):
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
