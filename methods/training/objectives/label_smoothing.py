"""Label smoothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Lt

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _classes

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Criterion, Training
    from bench.tasks.base import Batch


@dataclass(frozen=True)
class LabelSmoothing(Modifier):
    """Give `smoothing` of each label's probability to all classes alike.

    The loss is ``(1 − smoothing)`` times the task's plus ``smoothing`` times the cross entropy with the uniform
    distribution, as with torch's ``label_smoothing``. 0.1 is the paper's value:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html
    """

    name = "label_smoothing"
    traits = frozenset({"softens_labels"})
    paper = "https://arxiv.org/abs/1512.00567"
    example = "full + label_smoothing(0.1)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    smoothing: Annotated[float, Gt(0), Lt(1)] = 0.1

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It smooths the probabilities of classes."""
        yield from _classes.problems(context)
        yield from _classes.one_tensor(context)

    def wrap_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Mix the uniform distribution in."""
        smoothing, task = self.smoothing, training.task

        def smoothed(outputs: Any, batch: Batch) -> torch.Tensor:
            uniform = -task.logits(outputs, batch).float().log_softmax(-1).mean()
            return (1 - smoothing) * criterion(outputs, batch) + smoothing * uniform

        return smoothed

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The loss asks the criterion, whose value and gradient on the probe batch are those computed here from logits."""
        import torch

        from bench.models.modes import evaluating

        criterion, asked = work.criterion, []
        work.criterion = lambda outputs, batch: asked.append(batch) or criterion(outputs, batch)  # type: ignore[func-returns-value]
        with torch.no_grad():
            work.loss(work.probe)
        work.criterion = criterion
        yield Claim("the loss is the criterion's", bool(asked), f"asked {len(asked)} times")
        with evaluating(work.model), torch.no_grad():
            outputs = work.outputs(work.probe)
            seen = float(work.criterion(outputs, work.probe))
            hard = float(work.task.criterion(outputs, work.probe))
            logits = work.task.logits(outputs, work.probe).double()
        soft = float((logits.logsumexp(-1, keepdim=True) - logits).mean())
        expected = (1 - self.smoothing) * hard + self.smoothing * soft
        # Equal logits would give equal losses.
        holds = abs(seen - expected) <= 1e-5 * abs(expected) and seen != hard
        yield Claim(
            f"a share of {self.smoothing:g} goes to all classes",
            holds,
            f"{seen:.6g}, by hand {expected:.6g}, unsmoothed {hard:.6g}",
        )
        # Of other logits than the model's, and as the criterion's gradient at them.
        drawn = torch.Generator().manual_seed(work.seed)
        given = torch.randn(outputs.logits.shape, generator=drawn).to(outputs.logits.device).requires_grad_()
        changed = dataclasses.replace(outputs, logits=given)
        (seen_slope,) = torch.autograd.grad(work.criterion(changed, work.probe), given)
        (hard_slope,) = torch.autograd.grad(work.task.criterion(changed, work.probe), given)
        uniform = work.task.logits(changed, work.probe).double()
        classes = uniform.shape[-1]
        # −Σ log p / K of each row has the gradient p − 1/K.
        of_rows = (uniform.softmax(-1) - 1 / classes) / len(uniform)
        (soft_slope,) = torch.autograd.grad((uniform * of_rows.detach()).sum(), given)
        wanted = (1 - self.smoothing) * hard_slope + self.smoothing * soft_slope
        error = float((seen_slope - wanted).norm() / wanted.norm())
        yield Claim(
            "and the gradient at each logit is that of the share", error < 1e-4, f"relative difference {error:.1e}"
        )
