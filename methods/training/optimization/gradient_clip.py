"""Clipping of gradients by their norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from bench.recipe.method import Modifier
from bench.stage.evidence import Claim, is_part, whole

if TYPE_CHECKING:
    import torch

    from bench.recipe.declarations import Axis
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training, Update


@dataclass(frozen=True)
class GradientClip(Modifier):
    """Shorten the gradient of all trained weights together to a norm of at most `max_norm` before each update.

    The default is transformers' ``max_grad_norm``. Built on ``torch.nn.utils.clip_grad_norm_``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
    """

    name = "gradient_clip"
    paper = "https://arxiv.org/abs/1211.5063"
    example = "full + gradient_clip(1.0)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = 0  # within mixed precision's update, whose fp16 gradients are scaled outside of it

    max_norm: Annotated[float, Gt(0)] = 1.0

    def wrap_update(self, training: Training, update: Update) -> Update:
        """Clip, then update."""
        import torch.distributed as dist
        from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

        parameters, max_norm = training.parameters, self.max_norm

        def clipped() -> None:
            clip_grad_norm_(parameters, max_norm)
            update()

        def together() -> None:
            """The others' parts belong to the norm, and what all hold belongs to it once."""
            alone, parts = (
                whole(get_total_norm(gradients)).square().to(training.device) for gradients in _gradients(training)
            )
            for axis in divided:
                dist.all_reduce(parts, group=training.group.processes(axis))
            clip_grads_with_norm_(parameters, max_norm, (alone + parts).sqrt())
            update()

        divided = _divided(training)
        return together if divided else clipped

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Of a gradient of four times the norm a quarter reaches the optimizer, and all of one of half the norm."""

        import torch

        # In fp16 what is clipped was rounded, and scaled, before.
        exact = work.compute_dtype != torch.float16
        for times, share in ((4.0, 0.25), (0.5, 1.0)):
            norm, shares = self._through(work, times)
            wanted = min(times, 1.0) * self.max_norm
            yield Claim(
                f"a gradient {times:g} times as long as {self.max_norm:g} reaches the optimizer with a norm of {wanted:g}",
                abs(norm / wanted - 1) < (1e-3 if exact else 2e-2),
                f"{norm:.4g}",
            )
            off = [found for found in shares if abs(found / share - 1) > (1e-2 if exact else 2e-2)]
            yield Claim(
                f"of each of its tensors {share:g} is left",
                bool(shares) and not off,
                f"{len(shares) - len(off)} of {len(shares)}, from {min(shares, default=math.nan):.4g} to "
                f"{max(shares, default=math.nan):.4g}",
            )

    def _through(self, work: Training, times: float) -> tuple[float, list[float]]:
        """The norm with which a gradient so many times as long as is allowed comes through, and the share of each tensor.

        A share is that of the tensor's own direction, so that what turns has lost some.
        """
        norms: list[float] = []
        shares: list[float] = []
        given: list[torch.Tensor | None] = []

        def step() -> None:
            norms.append(_norm(work))
            shares.clear()
            for was, parameter in zip(given, work.parameters, strict=True):
                if was is not None and parameter.grad is not None and float(whole(was.norm())) > 0:
                    along = float(whole((parameter.grad * was).sum()))
                    shares.append(along / float(whole(was.norm())) ** 2)

        work.optimizer.step = step  # type: ignore[method-assign, assignment]
        try:
            # In fp16 an update is left out where a scaled gradient overflows, and the scale is halved for the next.
            for _ in range(16):
                if not norms:
                    scale = self._lengthen(work, times)
                    given[:] = [None if p.grad is None else p.grad.clone() / scale for p in work.parameters]
                    work.update()
        finally:
            del work.optimizer.step
        work.optimizer.zero_grad(set_to_none=True)
        return (norms[-1] if norms else math.nan), shares

    def _lengthen(self, work: Training, times: float) -> float:
        """Leave the probe batch's gradient, so many times as long as is allowed, times fp16's scale, which is returned."""
        import torch

        def length(compute: Callable[[], object]) -> float:
            work.optimizer.zero_grad(set_to_none=True)
            with torch.random.fork_rng():
                torch.manual_seed(work.seed)  # dropout drops the same
                compute()
            return _norm(work)

        scale = 1.0
        if work.compute_dtype == torch.float16:
            unscaled = length(lambda: work.loss(work.probe).backward())
            scale = length(lambda: work.gradients(work.probe, 1.0)) / unscaled
        else:
            unscaled = length(lambda: work.gradients(work.probe, 1.0))
        for parameter in work.parameters:
            if parameter.grad is not None:
                parameter.grad *= times * self.max_norm / unscaled
        return scale


def _divided(training: Training) -> list[Axis]:
    """The ways in which the processes divide the weights, each with gradients of its own."""
    return [axis for axis in training.group.layout if axis in ("layers", "tensors")]


def _gradients(training: Training) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The gradients of weights that all processes hold, and of those of which each has a part, or some."""
    found: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    for parameter in training.parameters:
        if parameter.grad is not None and not getattr(parameter, "counted_elsewhere", False):
            part = "layers" in training.group.layout or is_part(parameter)
            found[part].append(parameter.grad)
    return found


def _norm(training: Training) -> float:
    """The norm of all gradients as evidence adds it up: each weight's once, from as many parts as it has."""
    import torch

    own = {
        number: (float(whole(torch.linalg.vector_norm(parameter.grad))) ** 2, is_part(parameter))
        for number, parameter in enumerate(training.parameters)
        if parameter.grad is not None
    }
    axes: list[Axis] = [axis for axis in ("layers", "tensors") if axis in training.group.layout]
    gathered = training.group.all_gather(own, *axes) if axes else [own]
    total = 0.0
    for number in set().union(*gathered):
        squares = [each[number][0] for each in gathered if number in each]
        divided = any(each[number][1] for each in gathered if number in each)
        total += sum(squares) if divided else squares[0]
    return math.sqrt(total)
