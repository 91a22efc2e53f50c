"""A linear layer for weights with two zeros in each group of four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import nn


class SemiStructuredLinear(nn.Linear):
    """Its weight is compressed on a GPU, which torch has kernels for; dense elsewhere, in a copy and in a checkpoint.

    A compressed tensor can be taken to the CPU, where it becomes dense, and nowhere else: so it is unpacked before
    whatever moves the module, and packed again after.
    """

    compressed_on: ClassVar[str] = "cuda"

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """The same layer, compressed where that can be."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        made.weight, made.bias = layer.weight, layer.bias
        made._pack()
        return made.train(layer.training)

    @staticmethod
    def fits(layer: nn.Linear) -> bool:
        """Whether the kernels of all backends take a weight of this shape in half precision."""
        return layer.out_features % 32 == 0 and layer.in_features % 64 == 0

    def _pack(self) -> None:
        if self.weight.device.type == self.compressed_on:
            packed = torch.sparse.to_sparse_semi_structured(self.weight.detach())
            self.weight = nn.Parameter(packed, requires_grad=False)

    def _dense(self) -> nn.Parameter:
        weight = self.weight.detach()
        return nn.Parameter(weight if type(weight) is torch.Tensor else weight.to_dense(), requires_grad=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self.weight = self._dense()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._pack()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parameters": {**self._parameters, "weight": self._dense()}}
