"""A linear layer that rounds as ``torchao_int8_dynamic`` does, and lets gradients pass. Imports torch."""

from __future__ import annotations

import torch
from torch import nn


class FakeInt8Linear(nn.Linear):
    """A linear layer that rounds its inputs and its weight to 8 bits for each product, in training mode."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product of what was rounded."""
        if not self.training:
            return super().forward(inputs)
        return nn.functional.linear(rounded(inputs), rounded(self.weight), self.bias)


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """Each row rounded to codes from −128 to 127, steps of a 127.5th of its largest magnitude.

    The gradient is that of no rounding, and 0 for what lies beyond the last code.
    """
    rows = tensor.float().reshape(-1, tensor.shape[-1])
    step = (rows.detach().abs().amax(1) / 127.5).clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.zeros_like(step, dtype=torch.int32)
    found = torch.fake_quantize_per_channel_affine(rows, step, zero, 0, -128, 127)
    return found.view_as(tensor).to(tensor.dtype)
