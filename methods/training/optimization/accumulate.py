"""Gradient accumulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from bench.distributed.group import batch_parts
from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _gradients

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, Training
    from bench.tasks.base import Batch


@dataclass(frozen=True)
class Accumulate(Modifier):
    """Put a step's gradient together from `k` micro-batches, each a k-th of the budget's batch.

    The step still sees ``batch_size`` items, so recipes with and without it learn from the same data: memory falls,
    time rises. Each micro-batch is weighted by the terms in its loss (samples, or predicted tokens), so that the
    gradient is the whole batch's and not a mean of means. Documentation:
    https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    name = "accumulate"
    traits = frozenset({"micro_batches"})
    paper = "https://arxiv.org/abs/1811.06965"
    example = "full + accumulate(4)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = 90  # everything else happens inside of each micro-batch

    k: Annotated[int, Ge(2)]

    @property
    def passes(self) -> int:
        """One for each micro-batch."""
        return self.k

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Each micro-batch needs an item."""
        parts = batch_parts(context.stage.layout)
        if self.k * parts > context.batch_size:
            among = f" for each of {parts} processes" if parts > 1 else ""
            yield f"a batch of {context.batch_size} cannot be split into {self.k}{among}; raise budget.batch_size or lower k"

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Go through the batch in parts."""
        training.state[self.name] = compute

        def accumulated(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
            parts = batch.split(self.k)
            share = [part.weight / batch.weight for part in parts]
            losses = []
            try:
                for number, (part, fraction) in enumerate(zip(parts, share, strict=True), start=1):
                    training.more_to_come = number < len(parts)
                    losses.append(compute(part, scale * fraction) * fraction)
            finally:
                training.more_to_come = False
            return sum(losses[1:], losses[0])

        return accumulated

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """One step makes k forward passes, and its loss and its gradient are the whole batch's."""
        import torch

        from bench.models.architecture import body
        from bench.models.modes import evaluating

        calls: list[None] = []
        # The body, for where the model is in pieces the head is called in one process alone.
        hook = body(work.model).register_forward_pre_hook(lambda module, args: calls.append(None))
        with evaluating(work.model):  # dropout would draw differently for parts and whole
            loss, parts = _taken(work, work.gradients)
            made = len(calls)
            whole, at_once = _taken(work, work.state.get(self.name, work.gradients))
        hook.remove()
        expected, once = min(self.k, work.probe.samples), len(calls) - made
        yield Claim(
            f"a step goes through {expected} micro-batches",
            made == expected * once,
            f"{made} forward passes, {once} for the whole batch",
        )
        limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
        # Of several processes each tells of its slice.
        loss, whole = (sum(each) / len(each) for each in zip(*work.group.all_gather((loss, whole)), strict=True))
        yield Claim(
            "the loss that it tells is the whole batch's",
            abs(loss - whole) <= limit * max(1.0, abs(whole)),
            f"{loss:.6g} against {whole:.6g}",
        )
        if not work.exact:
            return  # processes exchange approximations, which do not add up
        error = float(torch.linalg.vector_norm(parts - at_once) / torch.linalg.vector_norm(at_once))
        yield Claim(
            "the gradient is the whole batch's", error <= limit, f"relative difference {error:.1e}, at most {limit:g}"
        )


def _taken(training: Training, compute: ComputeGradients) -> tuple[float, torch.Tensor]:
    training.optimizer.zero_grad(set_to_none=True)
    loss = float(compute(training.probe, 1.0))
    return loss, _gradients.taken(training)
