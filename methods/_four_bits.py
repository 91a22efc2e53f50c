"""What NF4 and FP4 share: they differ in their 16 values alone. No torch until a hook runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.evidence import Claim
from bench.method import Place, Transform
from methods import _quantized

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.evidence import Snapshot
    from bench.work import Work

BLOCK = 64
"""Weights that share a scale: bitsandbytes' default, and the only one that transformers can ask for."""


@dataclass(frozen=True)
class FourBits(Transform):
    """bitsandbytes' 4-bit layers, in the type of the method's name."""

    needs = ("bitsandbytes",)
    gives = frozenset({"quantized"})
    at_load = True

    double_quant: bool = True
    compute_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    def problems(self, place: Place) -> Iterator[str]:
        """It needs plain weights, and activations that no code casts to the type of a weight, which is no number's here."""
        yield from _quantized.problems(place, self.name)
        yield from _quantized.casting(place)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from methods import _bitsandbytes_layers as layers

        _quantized.replace(
            work,
            self.name,
            lambda layer: layers.four_bits(
                layer, self.name, double_quant=self.double_quant, compute_dtype=self.compute_dtype
            ),
        )
        layers.mark(
            work.model,
            load_in_4bit=True,
            bnb_4bit_quant_type=self.name,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=layers.DTYPES[self.compute_dtype],
        )

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold 4-bit codes, and multiply by their weights rounded to them."""
        yield from claims(before, work, self.name, double_quant=self.double_quant, compute_dtype=self.compute_dtype)


def claims(before: Snapshot, work: Work, quant_type: str, *, double_quant: bool, compute_dtype: str) -> Iterator[Claim]:
    """The layers hold codes of `quant_type`, multiply by their weights rounded to them, and in the right type."""
    import torch

    from bench.work import evaluating
    from methods import _bitsandbytes_layers as layers

    def is_packed(module: nn.Module) -> bool:
        state = getattr(module.weight, "quant_state", None) if isinstance(module, layers.Linear4bit) else None
        return (
            state is not None
            and module.weight.dtype == torch.uint8
            and (state.quant_type, state.nested) == (quant_type, double_quant)
        )

    scales = "8-bit scales" if double_quant else "float32 scales"

    def size(layer: Any) -> int:
        blocks = -(-layer.in_features * layer.out_features // BLOCK)
        codes = -(-layer.in_features * layer.out_features // 2) + 4 * 16  # and the 16 values that they stand for
        if not double_quant:
            return codes + 4 * blocks  # type: ignore[no-any-return]
        # A byte a block, their mean, and for each 256 of them a scale; and the 256 values that bytes stand for.
        return codes + blocks + 4 + 4 * -(-blocks // 256) + 4 * 256  # type: ignore[no-any-return]

    yield from _quantized.claims(before, work, f"{quant_type} with {scales}", is_packed, size)

    code = layers.bitsandbytes.functional.get_4bit_type(quant_type, device=work.device).sort().values
    gap = float(code.diff().max()) / 2

    def bound(rows: torch.Tensor) -> torch.Tensor:
        largest = rows.abs().amax(1, keepdim=True)
        # Scales in 8 bits are off by at most 1 % of the largest of them.
        return gap * largest + (0.01 * largest.max() if double_quant else 0)

    precision = layers.DTYPES[compute_dtype]
    yield _quantized.rounded(
        before,
        work,
        quant_type,
        quant_type,
        levels=16,
        rows=lambda weight: _quantized.grouped(weight.reshape(1, -1), BLOCK),
        bound=bound,
        precision=precision,
    )

    packed = sum(map(is_packed, work.model.modules()))
    with evaluating(work.model), torch.no_grad(), layers.Products() as products:
        calls = _quantized.calls(work, is_packed)
    types = {types[0] for types in products.seen}
    yield Claim(
        f"each of them multiplies in {compute_dtype}",
        types == {precision} and len(products.seen) == sum(calls.values()) and len(calls) == packed,
        f"{len(products.seen)} products of {len(calls)} of {packed} layers in {', '.join(map(str, types)) or 'nothing'}",
    )
