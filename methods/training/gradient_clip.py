"""Clipping of gradients by their norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from bench.evidence import Claim, is_part, whole
from bench.method import Modifier

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Training, Update
    from bench.method import Split
    from bench.work import Work


@dataclass(frozen=True)
class GradientClip(Modifier):
    """Shorten the gradient of all trained weights together to a norm of at most `max_norm` before each update.

    The default is transformers' ``max_grad_norm``. Built on ``torch.nn.utils.clip_grad_norm_``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
    """

    name = "gradient_clip"
    paper = "https://arxiv.org/abs/1211.5063"
    example = "full + gradient_clip(1.0)"
    across = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = 0  # within mixed precision's update, whose fp16 gradients are scaled outside of it

    max_norm: Annotated[float, Gt(0)] = 1.0

    def on_update(self, training: Training, update: Update) -> Update:
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
            for split in divided:
                dist.all_reduce(parts, group=training.group.processes(split))
            clip_grads_with_norm_(parameters, max_norm, (alone + parts).sqrt())
            update()

        divided = _divided(training)
        return together if divided else clipped

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """A gradient of four times the norm reaches the optimizer with the norm."""
        from bench.loop import Training

        assert isinstance(work, Training)
        norms: list[float] = []
        step = lambda: norms.append(_norm(work))  # noqa: E731
        work.optimizer.step = step  # type: ignore[method-assign, assignment]
        try:
            # In fp16 an update is left out where a scaled gradient overflows, and the scale is halved for the next.
            for _ in range(16):
                if not norms:
                    self._lengthen(work)
                    work.update()
        finally:
            del work.optimizer.step
        work.optimizer.zero_grad(set_to_none=True)
        seen = norms[-1] if norms else float("nan")
        yield Claim(f"the norm is clipped to {self.max_norm:g}", abs(seen / self.max_norm - 1) < 1e-3, f"{seen:.4g}")

    def _lengthen(self, work: Training) -> None:
        """Leave the probe batch's gradient, made four times as long as is allowed and then scaled as it is."""
        import torch

        work.optimizer.zero_grad(set_to_none=True)
        if work.compute_dtype == torch.float16:
            work.loss(work.probe).backward()  # unscaled
        else:
            work.gradients(work.probe, 1.0)
        length = _norm(work)
        work.optimizer.zero_grad(set_to_none=True)
        work.gradients(work.probe, 1.0)
        for parameter in work.parameters:
            if parameter.grad is not None:
                parameter.grad *= 4 * self.max_norm / length


def _divided(training: Training) -> list[Split]:
    """The ways in which the processes divide the weights, each with gradients of its own."""
    return [split for split in training.group.layout if split in ("layers", "tensors")]


def _gradients(training: Training) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The gradients of weights that all processes hold, and of those of which each has a part, or some."""
    found: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    for parameter in training.parameters:
        if parameter.grad is not None and not getattr(parameter, "counted_elsewhere", False):
            part = "layers" in training.group.layout or is_part(parameter)
            found[part].append(parameter.grad)
    return found


def _norm(training: Training) -> float:
    import torch

    alone, parts = (
        [float(whole(torch.linalg.vector_norm(gradient))) for gradient in gradients]
        for gradients in _gradients(training)
    )
    for split in _divided(training):
        parts = [norm for each in training.group.everyone(parts, split) for norm in each]
    return math.hypot(*alone, *parts)
