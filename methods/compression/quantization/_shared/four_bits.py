"""What NF4 and FP4 share: they differ in their 16 values alone. No torch until a hook runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from bench.stage.evidence import Claim
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work

BLOCK = 64
"""Weights that share a scale: bitsandbytes' default, and the only one that transformers can ask for."""


@dataclass(frozen=True)
class FourBits(Transform):
    """bitsandbytes' 4-bit layers, in the type of the method's name."""

    needs = ("bitsandbytes",)
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized"})
    at_load = True

    double_quant: bool = True
    compute_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs plain weights, and activations that no code casts to the type of a weight, which is no number's here."""
        yield from linear_blocks(context)
        yield from _quantized.casting(context)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from methods.compression.quantization._shared import bitsandbytes_layers as layers

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

    from bench.models.modes import evaluating
    from methods.compression.quantization._shared import bitsandbytes_layers as layers

    def is_packed(module: nn.Module) -> bool:
        state = getattr(module.weight, "quant_state", None) if isinstance(module, layers.Linear4bit) else None
        return (
            state is not None
            and module.weight.dtype == torch.uint8
            and (state.quant_type, state.nested) == (quant_type, double_quant)
        )

    precision = getattr(torch, {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[compute_dtype])
    scales = "8-bit scales" if double_quant else "float32 scales"

    def size(layer: Any) -> int:
        blocks = -(-layer.in_features * layer.out_features // BLOCK)
        codes = -(-layer.in_features * layer.out_features // 2) + 4 * 16  # and the 16 values that they stand for
        if not double_quant:
            return codes + 4 * blocks  # type: ignore[no-any-return]
        # A byte a block, their mean, and for each 256 of them a scale; and the 256 values that bytes stand for.
        return codes + blocks + 4 + 4 * -(-blocks // 256) + 4 * 256  # type: ignore[no-any-return]

    yield from _quantized.claims(
        before, work, quant_type, f"{quant_type} with {scales}", is_packed, size, biases_in=precision
    )

    yield _nearest(before, work, quant_type, double_quant=double_quant, eps=torch.finfo(precision).eps)

    packed = sum(map(is_packed, work.model.modules()))
    with evaluating(work.model), torch.no_grad(), layers.Products() as products:
        calls = _quantized.calls(work, is_packed)
    types = {types[0] for types in products.seen}
    yield Claim(
        f"each of them multiplies in {compute_dtype}",
        types == {precision} and len(products.seen) == sum(calls.values()) and len(calls) == packed,
        f"{len(products.seen)} products of {len(calls)} of {packed} layers in {', '.join(map(str, types)) or 'nothing'}",
    )


def _values(quant_type: str) -> torch.Tensor:
    """The 16 values of the type from −1 to 1, in order, as the papers' formulas give them."""
    import torch

    if quant_type == "fp4":  # a sign, two bits of exponent and one of mantissa, in twelfths; 0 twice
        sizes = torch.tensor([0, 0.0625, 2, 3, 4, 6, 8, 12]) / 12
        return torch.cat([-sizes.flip(0), sizes])
    # Quantiles of the normal distribution, 8 above 0 and 7 below it, as far from the last as the last two on average.
    last = 0.9677083
    above, below = (torch.special.ndtri(torch.linspace(last, 0.5, count).double())[:-1] for count in (9, 8))
    found = torch.cat([-below, torch.zeros(1), above]).float().sort().values
    return found / found.max()


def _nearest(before: Snapshot, work: Work, quant_type: str, *, double_quant: bool, eps: float) -> Claim:
    """Each weight is the nearest of the 16 values times its block's largest; `eps` is the products' precision."""
    import torch

    modules = dict(work.model.named_modules())
    remembered = _quantized.originals(before, work, quant_type)
    values = _values(quant_type).to(work.device)
    edges = (values[1:] + values[:-1]) / 2
    wrong = total = 0
    farthest = 0.0
    for path, original in remembered.items():
        found = _quantized.grouped(_quantized.effective(modules[path], original).reshape(1, -1), BLOCK)
        weight = _quantized.grouped(original.float().reshape(1, -1), BLOCK)
        largest = weight.abs().amax(1, keepdim=True)
        nearest = values[torch.bucketize(weight / largest.clamp(min=1e-30), edges)]
        # Read off the largest alone, whose value is 1 or −1: of the others one may lie between two values.
        scale = found.gather(1, weight.abs().argmax(1, keepdim=True)).abs()
        wanted, noise = nearest * scale, 2 * eps * largest
        tie = ((found - weight).abs() - (nearest * largest - weight).abs()).abs()
        wrong += int(((found - wanted).abs() > noise).logical_and(tie > noise + (scale - largest).abs()).sum())
        total += weight.numel()
        # In 8 bits, the largest of 256 scales' distances from the mean of all is in steps of a 70th, half of that off.
        apart = (largest - largest.mean()).abs().flatten()
        steps = _quantized.grouped(apart[None], 256).amax(1).repeat_interleave(256)[: len(apart), None]
        allowed = 8 * eps * largest + (steps / 140 if double_quant else 0)
        farthest = max(farthest, float(((scale - largest).abs() / allowed.clamp(min=1e-30)).max()))
    return Claim(
        f"each layer multiplies by its weights, each the nearest of the values of {quant_type} times a block's largest",
        len(remembered) == len(_quantized.linears(before, work)) and not wrong and farthest <= 1.01,
        f"{wrong:,} of {total:,} weights in {len(remembered)} layers are not; scales are off by {farthest:.2g} of what "
        "their precision allows",
    )
