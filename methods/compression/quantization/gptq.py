"""Weights rounded one after the other, each making up for the errors of those before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt

from bench.plan.context import PlanContext
from bench.stage.evidence import Claim
from methods import _quantized, _replay, _statistics
from methods._calibration import Calibrated
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class GPTQ(Calibrated):
    """Round the blocks' linear layers column by column, and change the columns not yet rounded to make up for it.

    How much to change is read off the inputs that the layers get on ``samples`` items of ``data``, block by block, each
    block seeing the rounded ones before it. 128 items and a damping of 1 % are the paper's. The grid is ``int4``'s, and
    so are memory and time. Embeddings and the task's head stay as they are. Written here, since packages that have it
    pin versions of torch and transformers.
    """

    name = "gptq"
    paper = "https://arxiv.org/abs/2210.17323"
    example = "full >> gptq"
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    bits: Literal[4, 8] = 4
    group_size: Literal[32, 64, 128] = 128
    damping: Annotated[float, Gt(0)] = 0.01

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from super().problems(context)
        yield from linear_blocks(context)
        yield from _quantized.casting(context)

    def apply(self, work: Work) -> None:
        """Round one block after the other."""
        from methods.compression.quantization._shared import packing

        for layers in _quantized.by_block(work.model):
            products = _statistics.collect(work, layers, self.calibration, lambda inputs: inputs.T @ inputs)
            for path, layer in layers.items():
                codes, scale = gptq(layer.weight.detach(), products[path], self.bits, self.group_size, self.damping)
                packed = packing.PackedLinear(layer, codes, scale, bits=self.bits, group_size=self.group_size)
                _quantized.put(work, self.name, path, layer, packed)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The layers are packed, err less than plain rounding's, and each weight is what the algorithm makes of it."""
        from methods.compression.quantization._shared import packing

        yield from packing.claims(before, work, self.name, self.bits, self.group_size)
        yield from self._made_up(before, work)

    def _made_up(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        import torch

        from methods import _compensation
        from methods.compression.quantization._shared import packing

        modules: dict[str, Any] = dict(work.model.named_modules())
        originals, count = _quantized.originals(before, work, self.name), len(_quantized.linears(before, work))
        top = 2 ** (self.bits - 1) - 1
        wrong = total = 0
        errors = {}
        for path, products in _replay.sums(work, originals, self.calibration, _replay.gram):
            weight, found = originals[path].float(), _quantized.effective(modules[path], originals[path])
            plain = packing.on_grid(weight, top, self.group_size)
            errors[path] = _replay.Error.of(weight, found, plain, products)
            course = _compensation.course(weight, found, products, self.damping)
            codes, scale = found.double().cpu(), modules[path].scale.double().cpu()
            starting = course.before(self.group_size)
            for group, start in enumerate(range(0, weight.shape[1], self.group_size)):
                columns, step = slice(start, start + self.group_size), scale[:, group, None]
                largest = starting[:, columns].abs().amax(1, keepdim=True)
                wrong += int(((step - largest / top).abs() > step / 900 + 2**-23).sum())
                turn = course.turn[:, columns]
                nearest = (turn / step).round().clamp(-top, top) * step
                off = (codes[:, columns] - nearest).abs()
                tie = ((codes[:, columns] - turn).abs() - (nearest - turn).abs()).abs()
                wrong += int((torch.minimum(off, tie) > step / 20).sum())
            total += weight.numel()
        yield _replay.nearer("plain rounding", errors, count)
        yield Claim(
            "each weight is the nearest to what the errors of those before it have made of it",
            0 < len(errors) == count and not wrong,
            f"{wrong:,} of {total:,} in {len(errors)} layers are not",
        )


def gptq(
    weight: torch.Tensor, products: torch.Tensor, bits: int, group_size: int, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes for `weight` and the groups' steps; `products` are the sums of those of its inputs' channels.

    The paper's algorithm 1, with its blocks being the groups, so that a group's step sees all changes made before it.
    """
    import torch

    from methods.compression.quantization._shared import packing

    columns = weight.shape[1]
    weight = weight.float().clone()
    hessian = products.double()
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    codes, scales = torch.empty_like(weight), []
    for start in range(0, columns, group_size):
        stop = min(start + group_size, columns)
        scale = packing.steps(weight[:, start:stop], bits, group_size)
        step, errors = scale.float()[:, 0], []
        for column in range(start, stop):
            codes[:, column] = packing.nearest(weight[:, column], step, bits)
            error = (weight[:, column] - codes[:, column] * step) / factor[column, column]
            weight[:, column:stop] -= error.outer(factor[column, column:stop])
            errors.append(error)
        weight[:, stop:] -= torch.stack(errors, 1) @ factor[start:stop, stop:]
        scales.append(scale)
    return codes, torch.cat(scales, 1)
