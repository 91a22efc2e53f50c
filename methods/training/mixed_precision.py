"""Automatic mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.evidence import Claim
from bench.method import Modifier

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import ComputeGradients, ComputeLoss, Training, Update
    from bench.tasks.base import Batch
    from bench.work import Work


@dataclass
class _Step:
    """The rest of the update in the shape of an optimizer, which is what the scaler unscales and then calls."""

    param_groups: list[dict[str, Any]]
    step: Update


@dataclass(frozen=True)
class MixedPrecision(Modifier):
    """Run forward passes under ``torch.autocast`` for the device, weights kept in float32.

    ``fp16`` scales the gradients (``torch.amp.GradScaler``), because its range is too small for them. Documentation:
    https://docs.pytorch.org/docs/stable/amp.html
    """

    name = "mixed_precision"
    paper = "https://arxiv.org/abs/1710.03740"
    example = 'full + mixed_precision("bf16")'
    order = 10

    dtype: Literal["bf16", "fp16"] = "bf16"

    def on_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Compute the loss under autocast."""
        import torch

        dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float16
        training.compute_dtype = dtype
        device = training.device.type

        def under_autocast(batch: Batch) -> torch.Tensor:
            with torch.autocast(device, dtype):
                return compute(batch)

        return under_autocast

    def on_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """For fp16, scale what is differentiated."""
        if self.dtype == "bf16":
            return compute
        import torch

        scaler = training.notes[self.name] = torch.amp.GradScaler(training.device.type)
        one = torch.ones((), device=training.device)

        def scaled(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
            return compute(batch, scaler.scale(one) * scale)

        return scaled

    def on_update(self, training: Training, update: Update) -> Update:
        """For fp16, unscale before the step, and skip it where a gradient overflowed."""
        if self.dtype == "bf16":
            return update
        scaler: Any = training.notes[self.name]
        step = _Step(training.optimizer.param_groups, update)

        def unscaled() -> None:
            scaler.step(step)
            scaler.update()
            training.optimizer.zero_grad(set_to_none=True)  # also where the step was skipped

        return unscaled

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """A real activation has the dtype, while the trained weights stay float32."""
        import torch

        dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float16
        seen: list[torch.dtype] = []
        hooks = [
            module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
            for module in work.model.modules()
            if isinstance(module, torch.nn.Linear)
        ]
        work.loss(work.probe)  # type: ignore[attr-defined]
        for hook in hooks:
            hook.remove()
        held = {parameter.dtype for parameter in work.model.parameters() if parameter.requires_grad}
        names = ", ".join(sorted({str(found) for found in seen})) or "none"
        yield Claim(f"linear layers give {self.dtype}", bool(seen) and set(seen) == {dtype}, f"activations are {names}")
        yield Claim("trained weights stay float32", held == {torch.float32}, ", ".join(map(str, held)))
