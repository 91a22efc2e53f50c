"""A linear layer whose weight is held without its zeros."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn


class SparseLinear(nn.Module):
    """``nn.Linear`` with its weight in compressed rows (CSR): a row's non-zero ``values`` and in which ``columns`` they are.

    The parts are plain buffers, with 32 bits an index, which is what torch's kernels take.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        weight = layer.weight.detach()
        filled = weight != 0
        self.register_buffer("rows", nn.functional.pad(filled.sum(1).cumsum(0), (1, 0)).int())
        self.register_buffer("columns", filled.nonzero()[:, 1].int())
        self.register_buffer("values", weight[filled])

    @property
    def weight(self) -> torch.Tensor:
        """The weight as one sparse tensor; nothing is copied."""
        _be_warned()
        size = (self.out_features, self.in_features)
        return torch.sparse_csr_tensor(self.rows, self.columns, self.values, size, check_invariants=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As ``nn.Linear`` does."""
        return nn.functional.linear(inputs, self.weight, self.bias)

    def unpacked(self) -> torch.Tensor:
        """The weight with its zeros."""
        return self.weight.to_dense()


@functools.cache
def _be_warned() -> None:
    """Let torch say here, once and to nobody, that its sparse tensors may still change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1))
