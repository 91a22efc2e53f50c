"""Weights rounded one after the other, each making up for the errors of those before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from bench.method import Place, Samples, Transform
from methods import _quantized, _statistics

if TYPE_CHECKING:
    import torch

    from bench.evidence import Claim, Snapshot
    from bench.work import Work


@dataclass(frozen=True)
class GPTQ(Transform):
    """Round the blocks' linear layers column by column, and change the columns not yet rounded to make up for it.

    How much to change is read off the inputs that the layers get on ``samples`` training items, block by block, each
    block seeing the rounded ones before it. 128 items and a damping of 1 % are the paper's. The grid is ``int4``'s, and
    so are memory and time. Embeddings and the task's head stay as they are. Written here, since packages that have it
    pin versions of torch and transformers.
    """

    name = "gptq"
    paper = "https://arxiv.org/abs/2210.17323"
    example = "full >> gptq"
    gives = frozenset({"quantized", "inference_only"})

    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128] = 128
    samples: Samples = 128
    damping: Annotated[float, Gt(0)] = 0.01

    def problems(self, place: Place) -> Iterator[str]:
        """It needs plain weights."""
        yield from _quantized.problems(place, self.name)
        yield from _quantized.casting(place)

    def apply(self, work: Work) -> None:
        """Round one block after the other."""
        from methods import _packed

        for layers in _quantized.by_block(work.model):
            products = _statistics.collect(work, layers, self.samples, lambda inputs: inputs.T @ inputs)
            for path, layer in layers.items():
                codes, scale = gptq(layer.weight.detach(), products[path], self.bits, self.group_size, self.damping)
                packed = _packed.PackedLinear(layer, codes, scale, bits=self.bits, group_size=self.group_size)
                _quantized.put(work, self.name, path, layer, packed)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers are packed, and their outputs are nearer than plain rounding's."""
        from methods import _packed

        yield from _packed.claims(before, work, self.bits, self.group_size)
        yield _packed.nearer(before, work, self.name, self.bits, self.group_size)


def gptq(
    weight: torch.Tensor, products: torch.Tensor, bits: int, group_size: int, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes for `weight` and the groups' steps; `products` are the sums of those of its inputs' channels.

    The paper's algorithm 1, with its blocks being the groups, so that a group's step sees all changes made before it.
    """
    import torch

    from methods import _packed

    columns = weight.shape[1]
    weight = weight.float().clone()
    hessian = products.double()
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    codes, scales = torch.empty_like(weight), []
    for start in range(0, columns, group_size):
        stop = min(start + group_size, columns)
        scale = _packed.steps(weight[:, start:stop], bits, group_size)
        step, errors = scale.float()[:, 0], []
        for column in range(start, stop):
            codes[:, column] = _packed.nearest(weight[:, column], step, bits)
            error = (weight[:, column] - codes[:, column] * step) / factor[column, column]
            weight[:, column:stop] -= error.outer(factor[column, column:stop])
            errors.append(error)
        weight[:, stop:] -= torch.stack(errors, 1) @ factor[start:stop, stop:]
        scales.append(scale)
    return codes, torch.cat(scales, 1)
