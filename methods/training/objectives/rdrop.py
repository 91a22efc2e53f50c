"""Regularized dropout."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _classes, _dropout

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeLoss, Criterion, Training
    from bench.tasks.base import Batch


@dataclass(frozen=True)
class RDrop(Modifier):
    """Run each batch twice under different dropout, and train the two predictions to agree: R-Drop.

    The loss is (ℓ₁ + ℓ₂)/2 + alpha · (KL(p₁‖p₂) + KL(p₂‖p₁))/2, the mean over items or predicted tokens. The paper's
    equation 4 adds the two ℓ; their mean, as in its authors' code, is on the scale of training without R-Drop. Of the
    paper's values for language understanding, 0.1, 0.5 and 1, the default is the last; it takes 5 for translation.
    """

    name = "rdrop"
    paper = "https://arxiv.org/abs/2106.14448"
    example = "full + rdrop(1.0)"
    divisible_by = frozenset({"devices"})

    alpha: Annotated[float, Gt(0)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Without dropout both predictions are the same, and their divergence is 0 whatever the weights."""
        yield from _classes.problems(context)
        yield from _classes.one_tensor(context)
        yield from _dropout.problems(context)

    def wrap_criterion(self, training: Training, criterion: Criterion) -> Criterion:
        """Keep each pass' logits."""
        kept: list[torch.Tensor] = training.state.setdefault(self.name, [])

        def keeping(outputs: Any, batch: Batch) -> torch.Tensor:
            kept.append(training.task.logits(outputs, batch))
            return criterion(outputs, batch)

        return keeping

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Two passes, and what their predictions differ by."""
        kept: list[torch.Tensor] = training.state.setdefault(self.name, [])

        def twice(batch: Batch) -> torch.Tensor:
            kept.clear()
            loss = (compute(batch) + compute(batch)) / 2
            for first, second in itertools.combinations(kept, 2):
                loss = loss + self.alpha * divergence(first, second)
            kept.clear()
            return loss

        return twice

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Two passes differ by dropout, and of known logits in their place the loss and its gradient are the formula's."""
        import torch

        own: list[torch.Tensor] = []
        given: list[torch.Tensor] = []
        criterion = work.criterion

        def through(outputs: Any, batch: Batch) -> torch.Tensor:
            own.append(outputs.logits)
            if given:
                outputs = dataclasses.replace(outputs, logits=given[(len(own) - 1) % 2])
            return criterion(outputs, batch)

        def loss(*logits: torch.Tensor) -> torch.Tensor:
            own.clear()
            given[:] = logits
            with torch.random.fork_rng():
                torch.manual_seed(work.seed)  # what else is in the loss draws the same
                return work.loss(work.probe)

        work.criterion = through
        with torch.no_grad():
            loss()
            passes, differ = len(own), len(own) == 2 and not torch.equal(own[0], own[1])
            first, second = torch.randn_like(own[0]), torch.randn_like(own[0])
            # Whatever the criterion makes of one pass' logits cancels, and what the two differ by is left.
            seen = float(loss(first, second) - (loss(first, first) + loss(second, second)) / 2)
            # Of the same logits twice the loss is the criterion's, beside what else is in it.
            alike = float(loss(first, first) - loss(second, second))
            once = float(criterion(_Outputs(first), work.probe) - criterion(_Outputs(second), work.probe))
        pair = [each.clone().requires_grad_() for each in (first, second)]
        slopes = torch.autograd.grad(loss(*pair), pair, allow_unused=True, materialize_grads=True)
        # Of two that are the same the divergence has no gradient, so this is what else there is.
        same = [each.clone().requires_grad_() for each in (first, second)]
        others = [
            torch.autograd.grad(loss(each, each), each, allow_unused=True, materialize_grads=True)[0] / 2
            for each in same
        ]
        work.criterion = criterion
        one, two = (
            work.task.logits(_Outputs(logits), work.probe).double().log_softmax(-1) for logits in (first, second)
        )
        expected = self.alpha * float(((one.exp() - two.exp()) * (one - two)).sum(-1).mean()) / 2
        limit = 1e-3 if work.compute_dtype == torch.float32 else 3e-2
        yield Claim("a loss takes two passes", passes == 2, f"it took {passes}")
        yield Claim("they differ by dropout", differ, "different logits" if differ else "the same logits")
        yield Claim(
            "beside it the loss is the mean of both passes'",
            abs(alike - once) <= limit * abs(once) + 1e-4,
            f"{alike:.5g} against {once:.5g} from one pair of equal logits to another",
        )
        yield Claim(
            "the loss has alpha times the divergence of the two in it",
            abs(seen - expected) <= limit * expected + 1e-5,
            f"{seen:.5g} against {expected:.5g} for random logits",
        )
        formula = [each.clone().double().requires_grad_() for each in (first, second)]
        logs = [work.task.logits(_Outputs(each), work.probe).log_softmax(-1) for each in formula]
        both = ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum(-1).mean()
        wanted = torch.autograd.grad(self.alpha / 2 * both, formula)
        errors = [
            float((slope.double() - other - want).norm() / want.norm())
            for slope, other, want in zip(slopes, others, wanted, strict=True)
        ]
        yield Claim(
            "and its gradient, at the logits of either pass",
            max(errors) <= limit,
            f"relative differences {errors[0]:.1e} and {errors[1]:.1e}",
        )


@dataclass(frozen=True)
class _Outputs:
    logits: torch.Tensor


def divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The mean over rows of (KL(p‖q) + KL(q‖p))/2, of logits, in float32."""
    import torch

    log_p, log_q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    kl = torch.nn.functional.kl_div
    return (
        kl(log_q, log_p, log_target=True, reduction="batchmean")
        + kl(log_p, log_q, log_target=True, reduction="batchmean")
    ) / 2
