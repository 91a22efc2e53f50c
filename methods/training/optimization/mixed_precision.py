"""Automatic mixed precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, ComputeLoss, Training, Update
    from bench.tasks.base import Batch


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
    traits = frozenset({"one_pass"})
    paper = "https://arxiv.org/abs/1710.03740"
    example = 'full + mixed_precision("bf16")'
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = 10

    dtype: Literal["bf16", "fp16"] = "bf16"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """fp16 must see overflow in every gradient."""
        if self.dtype == "fp16" and context.stage.layout.keys() & {"layers", "shards", "tensors"}:
            yield "in fp16, processes that each hold a part of the weights would not skip the same steps; use bf16"

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Compute the loss under autocast."""
        import torch

        dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float16
        training.compute_dtype = dtype
        device = training.device.type
        if self.dtype == "fp16":
            scaler = training.state[self.name] = torch.amp.GradScaler(device)
            scaler.scale(torch.ones((), device=training.device))  # it makes its scale when it is first used

        def under_autocast(batch: Batch) -> torch.Tensor:
            with torch.autocast(device, dtype):
                return compute(batch)

        return under_autocast

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """For fp16, scale what is differentiated."""
        if self.dtype == "bf16":
            return compute
        import torch

        scaler: Any = training.state[self.name]
        one = torch.ones((), device=training.device)

        def scaled(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
            return compute(batch, scaler.scale(one) * scale)

        return scaled

    def wrap_update(self, training: Training, update: Update) -> Update:
        """For fp16, unscale before the step, and skip it where a gradient overflowed."""
        if self.dtype == "bf16":
            return update
        scaler: Any = training.state[self.name]
        step = _Step(training.optimizer.param_groups, update)

        def unscaled() -> None:
            scaler.step(step)
            scaler.update()
            training.optimizer.zero_grad(set_to_none=True)  # also where the step was skipped

        return unscaled

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """A real activation has the dtype, while the trained weights stay float32."""
        import torch

        dtype = torch.bfloat16 if self.dtype == "bf16" else torch.float16
        seen: list[torch.dtype] = []
        hooks = [
            module.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
            for module in work.model.modules()
            # Quantized weights are multiplied in a type of their own.
            if isinstance(module, torch.nn.Linear) and module.weight.is_floating_point()
        ]
        with torch.random.fork_rng():
            losses = [work.loss(part).detach() for part in work.probe.split(2)]
        for hook in hooks:
            hook.remove()
        held = {parameter.dtype for parameter in work.model.parameters() if parameter.requires_grad}
        names = ", ".join(sorted({str(found) for found in seen})) or "none"
        yield Claim(f"linear layers give {self.dtype}", bool(seen) and set(seen) == {dtype}, f"activations are {names}")
        yield Claim("trained weights stay float32", held == {torch.float32}, ", ".join(map(str, held)))
        # A number of float32 is hardly ever one of half precision too, and two are not.
        rounded = [float(loss) == float(loss.to(dtype)) for loss in losses]
        yield Claim(
            "the loss is a number of float32", not all(rounded), ", ".join(f"{float(loss):.8g}" for loss in losses)
        )
        if self.dtype == "fp16":
            yield from self._scaling(work)

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """In evaluation nothing is cast: layers give what their weights are held in, and logits are float32."""
        import torch

        from bench.models.modes import evaluating

        wrong: list[str] = []
        ran: list[str] = []

        def look(module: torch.nn.Linear, args: object, output: torch.Tensor) -> None:
            ran.append(str(output.dtype))
            if output.dtype != module.weight.dtype:
                wrong.append(str(output.dtype))

        hooks = [
            module.register_forward_hook(look)
            for module in work.model.modules()
            # Quantized weights are multiplied in a type of their own.
            if type(module) is torch.nn.Linear
        ]
        with evaluating(work.model), torch.no_grad():
            work.model(**work.probe.inputs)
        for hook in hooks:
            hook.remove()
        cast = torch.is_autocast_enabled(work.device.type)
        yield Claim(
            "after training nothing is cast any more",
            not wrong and not cast,
            f"{len(ran) - len(wrong)} of {len(ran)} layers give what their weights are, autocast is {'on' if cast else 'off'}",
        )

    def _scaling(self, work: Any) -> Iterator[Claim]:
        import torch

        scaler = work.state.get(self.name)
        scale = scaler.get_scale() if scaler else 1.0
        counted = scaler.state_dict()["_growth_tracker"] if scaler else 0
        sums = []
        for factor in (1.0, scale):
            work.optimizer.zero_grad(set_to_none=True)
            if scaler:
                scaler.load_state_dict({**scaler.state_dict(), "scale": factor})
            with torch.random.fork_rng():
                torch.manual_seed(work.seed)
                work.gradients(work.probe, 1.0)
            sums.append(sum(float(p.grad.double().abs().sum()) for p in work.parameters if p.grad is not None))
        work.optimizer.zero_grad(set_to_none=True)
        seen = sums[1] / sums[0] if sums[0] else float("nan")
        # Overflow in the scaled gradient is what the scaler is there to notice: then it is infinite, or what backward
        # makes of infinities, not a number.
        overflow = 0 < sums[0] < math.inf and not math.isfinite(sums[1])
        yield Claim(
            "gradients are scaled",
            scale != 1 and (abs(seen / scale - 1) < 0.1 or overflow),
            f"{seen:.4g} times",
        )
        arriving: list[float] = []
        work.optimizer.step = lambda: arriving.append(
            sum(float(p.grad.double().abs().sum()) for p in work.parameters if p.grad is not None)
        )
        try:
            # Where a scaled gradient overflows the update is left out, and the scale is halved for the next.
            for _ in range(16):
                if not arriving:
                    with torch.random.fork_rng():
                        torch.manual_seed(work.seed)
                        work.gradients(work.probe, 1.0)
                    work.update()
        finally:
            del work.optimizer.step
            work.optimizer.zero_grad(set_to_none=True)
        reaches = arriving[0] / sums[0] if arriving and sums[0] else math.nan
        clips = any(hasattr(modifier, "max_norm") for modifier in work.stage.modifiers)
        yield Claim(
            "unscaled gradients reach the optimizer",
            abs(reaches - 1) < 0.1 or (clips and 0 < reaches < 1),
            f"{reaches:.4g} times",
        )
        yield Claim(
            "each step unscales and adjusts the scale",
            counted > 0 or 0 < scale < 2**16,
            f"scale {scale:g}, {counted} steps since it changed",
        )
