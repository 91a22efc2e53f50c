"""Weights scaled by how active their inputs are, before they are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.evidence import Claim
from bench.method import Place, Samples, Transform
from methods import _quantized, _statistics

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.work import Work

POWERS = 20
"""Powers of the activations' magnitudes that are tried, from 0 up to 1: the paper's."""


@dataclass(frozen=True)
class AWQ(Transform):
    """Scale up the weights of active inputs before rounding the blocks' linear layers, so that those err less.

    Each layer divides its inputs by what its weights were multiplied by: a power of the inputs' mean magnitude on
    ``samples`` training items, the one of 20 powers that leaves the output nearest. The paper has a set of 128, and
    folds the division into the layer before where there is one. Its clipping of weights is left out. The grid is
    ``int4``'s, and so are memory and time. Embeddings and the task's head stay as they are. Written here, since packages
    that have it pin versions of torch and transformers.
    """

    name = "awq"
    paper = "https://arxiv.org/abs/2306.00978"
    example = "full >> awq"
    gives = frozenset({"quantized", "inference_only"})

    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128] = 128
    samples: Samples = 128

    def problems(self, place: Place) -> Iterator[str]:
        """It needs plain weights."""
        yield from _quantized.problems(place, self.name)
        yield from _quantized.casting(place)

    def apply(self, work: Work) -> None:
        """Scale and round one block after the other."""
        from methods import _packed

        for layers in _quantized.by_block(work.model):
            found = _statistics.collect(work, layers, self.samples, _look)
            for path, layer in layers.items():
                codes, scale, divisor = awq(layer.weight.detach(), *_parts(found[path]), self.bits, self.group_size)
                packed = _packed.PackedLinear(
                    layer, codes, scale, bits=self.bits, group_size=self.group_size, divisor=divisor
                )
                _quantized.put(work, self.name, path, layer, packed)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers are packed, divide active inputs by more, and err less than plain rounding's."""
        from methods import _packed

        yield from _packed.claims(before, work, self.bits, self.group_size)
        yield _packed.nearer(before, work, self.name, self.bits, self.group_size)
        yield self._scaled(work)

    def _scaled(self, work: Work) -> Claim:
        import torch

        from methods import _packed

        layers = {
            path: layer
            for path, layer in work.model.named_modules()
            if isinstance(layer, _packed.PackedLinear)
            and layer.divisor is not None
            and layer.divisor.unique().numel() > 1
        }
        found = _statistics.collect(work, layers, self.samples, _look)  # type: ignore[arg-type]
        alike = [
            float(torch.corrcoef(torch.stack([layer.divisor.log(), _parts(found[path])[1].log()]))[0, 1])  # type: ignore[union-attr]
            for path, layer in layers.items()
        ]
        return Claim(
            "inputs are divided by powers of their magnitudes",
            bool(alike) and min(alike) > 0.9,
            f"{len(alike)} layers divide, by what correlates to {min(alike, default=0):.3g} or more in logarithms",
        )


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

    from methods import _packed

    weight = weight.float()
    least, best = float("inf"), (torch.empty(0),) * 3
    for number in range(POWERS):
        divisor = magnitudes ** (number / POWERS)
        divisor = divisor / (divisor.max() * divisor.min()).sqrt()
        scale = _packed.steps(weight * divisor, bits, group_size)
        step = _packed.spread(scale, group_size, weight.shape[1]).float()
        codes = _packed.nearest(weight * divisor, step, bits)
        error = codes * step / divisor - weight
        off = float((error @ products * error).sum())
        if off < least:
            least, best = off, (codes, scale, divisor)
    return best
