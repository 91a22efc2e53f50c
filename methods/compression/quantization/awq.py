"""Weights scaled by how active their inputs are, before they are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.plan.context import PlanContext
from bench.stage.evidence import Claim
from methods import _quantized, _replay, _statistics
from methods._calibration import Calibrated
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work

POWERS = 20
"""Powers of the activations' magnitudes that are tried, from 0 up to 1: the paper's."""


@dataclass(frozen=True)
class AWQ(Calibrated):
    """Scale up the weights of active inputs before rounding the blocks' linear layers, so that those err less.

    Each layer divides its inputs by what its weights were multiplied by: a power of the inputs' mean magnitude on
    ``samples`` items of ``data``, the one of 20 powers that leaves the output nearest. The paper has a set of 128, and
    folds the division into the layer before where there is one. Its clipping of weights is left out. The grid is
    ``int4``'s, and so are memory and time. Embeddings and the task's head stay as they are. Written here, since packages
    that have it pin versions of torch and transformers.
    """

    name = "awq"
    paper = "https://arxiv.org/abs/2306.00978"
    example = "full >> awq"
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128] = 128

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from super().problems(context)
        yield from linear_blocks(context)
        yield from _quantized.casting(context)

    def apply(self, work: Work) -> None:
        """Scale and round one block after the other."""
        from methods.compression.quantization._shared import packing

        for layers in _quantized.by_block(work.model):
            found = _statistics.collect(work, layers, self.calibration, _look)
            for path, layer in layers.items():
                codes, scale, divisor = awq(layer.weight.detach(), *_parts(found[path]), self.bits, self.group_size)
                packed = packing.PackedLinear(
                    layer, codes, scale, bits=self.bits, group_size=self.group_size, divisor=divisor
                )
                _quantized.put(work, self.name, path, layer, packed)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The layers are packed, scaled by the power of their inputs that leaves the outputs nearest, and then rounded."""
        from methods.compression.quantization._shared import packing

        yield from packing.claims(before, work, self.name, self.bits, self.group_size)
        yield from self._scaled(before, work)

    def _scaled(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        import torch

        from methods.compression.quantization._shared import packing

        modules: dict[str, Any] = dict(work.model.named_modules())
        originals, count = _quantized.originals(before, work, self.name), len(_quantized.linears(before, work))
        top = 2 ** (self.bits - 1) - 1
        wrong = total = powers = 0
        best, errors, off = [], {}, 0.0
        for path, measured in _replay.sums(work, originals, self.calibration, _both):
            products, sizes = measured[1:], measured[0]
            weight, found = originals[path].float(), _quantized.effective(modules[path], originals[path])
            divisor = torch.ones_like(sizes) if modules[path].divisor is None else modules[path].divisor
            wanted = packing.on_grid(weight * divisor, top, self.group_size)
            step = (weight * divisor).abs().amax() / top
            wrong += int(((found * divisor - wanted).abs() > 1e-4 * step).sum())
            total += weight.numel()
            sizes = torch.maximum(sizes, sizes.max() * 1e-6)
            tried = []
            for power in range(20):
                scale = sizes.pow(power / 20) / (sizes.max() * sizes.min()).pow(power / 40)
                rounded = packing.on_grid(weight * scale, top, self.group_size) / scale
                tried.append((_replay.Error.of(weight, found, rounded, products), (divisor / scale).log().abs().max()))
            nearest = min(range(20), key=lambda power: float(tried[power][1]))
            powers += nearest > 0
            off = max(off, float(tried[nearest][1]))
            errors[path], least = tried[0][0], min(error.theirs for error, _ in tried)
            best += [path] * (errors[path].ours <= least * 1.001 + 1e-9 * errors[path].whole)
        everywhere = 0 < len(errors) == count
        yield Claim(
            "each weight is rounded to the nearest after it was multiplied by its input's divisor",
            everywhere and not wrong,
            f"{wrong:,} of {total:,} in {len(errors)} layers are not",
        )
        yield Claim(
            "inputs are divided by powers of their mean magnitudes",
            everywhere and off <= 1e-3,
            f"in {powers} of {count} layers, {off:.1g} of a divisor off or less",
        )
        ours, theirs = _replay.shares(errors)
        yield Claim(
            "on calibration data none of 20 powers would leave a layer's outputs nearer",
            everywhere and len(best) == count,
            f"so in {len(best)} of {count}; they err by {ours}, with plain rounding by {theirs}",
        )


def _both(rows: torch.Tensor) -> torch.Tensor:
    """For evidence: the sums of magnitudes, and below them the products of every two inputs."""
    import torch

    return torch.vstack([rows.abs().sum(0), _replay.gram(rows)])


def _look(inputs: torch.Tensor) -> torch.Tensor:
    """What :func:`_parts` takes apart."""
    import torch

    return torch.cat([inputs.T @ inputs, inputs.abs().sum(0, keepdim=True)])


def _parts(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The products of every two inputs, and the inputs' magnitudes, never 0; both summed over tokens."""
    return found[:-1], found[-1].clamp(min=1e-6 * float(found[-1].max()))


def awq(
    weight: torch.Tensor, products: torch.Tensor, magnitudes: torch.Tensor, bits: int, group_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes for `weight`, the groups' steps, and the divisor of its inputs that leaves the output nearest."""
    import torch

    from methods.compression.quantization._shared import packing

    weight = weight.float()
    least, best = float("inf"), (torch.empty(0),) * 3
    for number in range(POWERS):
        divisor = magnitudes ** (number / POWERS)
        divisor = divisor / (divisor.max() * divisor.min()).sqrt()
        scale = packing.steps(weight * divisor, bits, group_size)
        step = packing.spread(scale, group_size, weight.shape[1]).float()
        codes = packing.nearest(weight * divisor, step, bits)
        error = codes * step / divisor - weight
        off = float((error @ products * error).sum())
        if off < least:
            least, best = off, (codes, scale, divisor)
    return best
