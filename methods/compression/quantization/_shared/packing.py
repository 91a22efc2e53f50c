"""Linear layers whose weights are a few bits each, on a symmetric grid, packed into bytes. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.stage.evidence import Claim
from methods import _quantized

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


def top(bits: int) -> int:
    """The largest code; the smallest is its negative."""
    return 2 ** (bits - 1) - 1  # type: ignore[no-any-return]


def steps(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """The grid's step for each group of each row, in half precision: the largest weight is the last code's."""
    largest = _quantized.grouped(weight.float(), group_size).abs().amax(1).view(len(weight), -1)
    return (largest / top(bits)).half().clamp(min=2**-24)


def spread(scale: torch.Tensor, group_size: int, columns: int) -> torch.Tensor:
    """The step of each weight, from those of the groups."""
    return scale.repeat_interleave(group_size, 1)[:, :columns]


def nearest(weight: torch.Tensor, step: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest codes; `step` is each weight's."""
    return (weight.float() / step.float()).round().clamp(-top(bits), top(bits))


class PackedLinear(nn.Module):
    """A linear layer that keeps `bits` bits for each weight, and a half-precision step for each group of a row.

    It unpacks the whole weight for each product. Where there is a ``divisor``, it divides the inputs, and the weight
    was multiplied by it before it was rounded.
    """

    packed: torch.Tensor
    scale: torch.Tensor
    divisor: torch.Tensor | None

    def __init__(
        self,
        plain: nn.Linear,
        codes: torch.Tensor,
        scale: torch.Tensor,
        *,
        bits: int,
        group_size: int,
        divisor: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        # A row that is shorter than a group is one.
        self.bits, self.group_size = bits, min(group_size, plain.in_features + plain.in_features % 2)
        self.bias = plain.bias
        self.register_buffer("packed", pack(codes, bits, self.group_size))
        self.register_buffer("scale", scale)
        self.register_buffer("divisor", divisor)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The product, in the type of `inputs`."""
        if self.divisor is not None:
            inputs = inputs / self.divisor.to(inputs.dtype)
        return nn.functional.linear(inputs, self._weight(inputs.dtype), self.bias)

    def unpacked(self) -> torch.Tensor:
        """The weight that it stands for."""
        weight = self._weight(torch.float32)
        return weight if self.divisor is None else weight / self.divisor

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}"

    def _weight(self, dtype: torch.dtype) -> torch.Tensor:
        codes = unpack(self.packed, self.bits).to(dtype) - top(self.bits)
        groups = codes.view(*self.scale.shape, self.group_size) * self.scale.to(dtype).unsqueeze(-1)
        return groups.flatten(1)[:, : self.in_features]


def pack(codes: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Codes into bytes, the first in the lowest bits; each row is filled up to whole groups."""
    filled = nn.functional.pad(codes, (0, -codes.shape[1] % group_size)) + top(bits)
    parts = filled.to(torch.uint8).view(len(codes), -1, 8 // bits)
    return (parts << _places(bits, codes.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes from bytes, the smallest being 0."""
    return ((packed.unsqueeze(-1) >> _places(bits, packed.device)) & (2**bits - 1)).flatten(1)  # type: ignore[no-any-return]


def _places(bits: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)


def claims(before: Snapshot, work: Work, name: str, bits: int, group_size: int) -> Iterator[Claim]:
    """The blocks' linear layers are packed, all of them and no others, in so many bits a weight."""

    def size(layer: PackedLinear) -> int:
        width = min(group_size, layer.in_features)
        row = math.ceil(layer.in_features / width) * (math.ceil(width * bits / 8) + 2)
        return layer.out_features * row + (0 if layer.divisor is None else 4 * layer.in_features)

    def is_packed(module: nn.Module) -> bool:
        return isinstance(module, PackedLinear) and module.packed.dtype == torch.uint8

    yield from _quantized.claims(before, work, name, f"packed in {bits} bits", is_packed, size)


def on_grid(weight: torch.Tensor, top: int, group_size: int) -> torch.Tensor:
    """For evidence: the nearest of −`top` to `top` steps, a half-precision `top`-th of the largest of each group."""
    parts = []
    for part in weight.split(group_size, dim=1):
        step = (part.abs().amax(1, keepdim=True) / top).to(torch.float16).float().clamp(min=2.0**-24)
        parts.append(torch.round(part / step).clamp(-top, top) * step)
    return torch.cat(parts, dim=1)
