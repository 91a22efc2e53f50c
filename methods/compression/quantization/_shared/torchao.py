"""What methods built on torchao share: quantizing the blocks' linear layers in place, and shipping them. Imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchao.quantization import quantize_

from bench.models.architecture import as_linear, block_linears
from bench.recipe.errors import Refusal
from methods import _quantized

if TYPE_CHECKING:
    from bench.stage.work import Work


def apply(work: Work, name: str, config: Any, *, bfloat16: bool = False) -> None:
    """Quantize the weights of the blocks' linear layers by torchao's `config`, and remember what they were.

    Raises:
        Refusal: torchao cannot scale the rows of some layer.
    """
    as_linear(work.model)
    layers = block_linears(work.model)
    for path, layer in layers.items():
        if layer.in_features == 1:
            raise Refusal(f"{name}: {path} has a single input: {_quantized.ONE_INPUT}")
    for path, layer in layers.items():
        _quantized.remember(work, name, path, layer)
        if bfloat16:
            layer.__class__ = BFloat16Linear
            layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
        quantize_(layer, config)
        layer.requires_grad_(False)
        del layer.extra_repr  # a partial function, which cannot be pickled


def save(model: nn.Module, folder: Path) -> bool:
    """Write the weights as torchao's own tensors, which a safetensors file has no place for."""
    return _quantized.save(model, folder)


def int8_bytes(layer: nn.Linear) -> int:
    """What an int8 weight takes: a byte each, and for each row a scale and a zero point."""
    return layer.out_features * (layer.in_features + 4 + 1)


class BFloat16Linear(nn.Linear):
    """A linear layer that multiplies in bfloat16 whatever it is given, because its weight's kernel does."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product, in the type of `inputs`."""
        bias = None if self.bias is None else self.bias.bfloat16()
        return nn.functional.linear(inputs.bfloat16(), self.weight, bias).to(inputs.dtype)
