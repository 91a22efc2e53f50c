"""4-bit NormalFloat."""

from __future__ import annotations

from dataclasses import dataclass

from methods.compression.quantization._shared import four_bits


@dataclass(frozen=True)
class NF4(four_bits.FourBits):
    """Store the blocks' linear layers in 4-bit NormalFloat, whose 16 values are the quantiles of a normal distribution.

    Weights are scaled by the largest of each 64; ``double_quant`` stores these scales in 8 bits, as QLoRA does. Each
    product unpacks its weights and is made in ``compute_dtype``, transformers' default. Trained after, as in
    ``nf4 >> lora(r=16)``, the weights stay frozen: that is QLoRA. Embeddings and the task's head stay as they are. The
    model is loaded in full and then converted, so loading takes the memory of both. On a CPU, bitsandbytes' kernel for
    AVX512_BF16 stays off, because it repacks the weights: training after an evaluation, and saving, break. Built on
    bitsandbytes: https://huggingface.co/docs/bitsandbytes/reference/nn/linear4bit
    """

    name = "nf4"
    paper = "https://arxiv.org/abs/2305.14314"
    example = "nf4 >> lora(r=16)"
