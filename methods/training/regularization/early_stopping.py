"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass
class _Seen:
    """The validation losses, each after so many steps, and the trained weights of the lowest."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class EarlyStopping(Modifier):
    """Stop when the validation loss has not fallen for `patience` evaluations, and go back to the best weights.

    The loss is the task's own on the validation split, every `every` steps and after the last, outside the clock. The
    copy of the best weights stays in memory. 3 is Prechelt's middle way; 10 steps suit the short budgets here, and
    transformers evaluates every 500.
    """

    name = "early_stopping"
    traits = frozenset({"stops_early"})
    paper = "https://doi.org/10.1007/3-540-49430-8_3"
    example = "full + early_stopping(patience=3, every=10)"
    order = 100  # sees what the other methods left of a step

    patience: Annotated[int, Ge(1)] = 3
    every: Annotated[int, Ge(1)] = 10

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It lives by the validation loss."""
        if "validation" not in context.splits:
            yield "the task's validation split is empty, about a tenth of all items goes there; add more, or leave it out"

    def on_step_end(self, training: Training) -> None:
        """Evaluate when it is time, and stop when patience is at its end."""
        import torch

        done = training.step + 1
        over = training.stop or done == training.steps
        seen: _Seen = training.state.setdefault(self.name, _Seen())
        if done % self.every == 0 or over:
            loss = _validation_loss(training)
            if not seen.losses or loss < min(loss for _, loss in seen.losses):
                seen.best = [parameter.detach().clone() for parameter in training.parameters]
            seen.losses.append((done, loss))
            training.stop |= self._patience_ends(seen.losses)
        if training.stop or over:
            with torch.no_grad():
                for parameter, best in zip(training.parameters, seen.best, strict=True):
                    parameter.copy_(best)

    def _patience_ends(self, losses: list[tuple[int, float]]) -> bool:
        """Whether the last `patience` losses are all no lower than the lowest before them."""
        values = [loss for _, loss in losses]
        return len(values) > self.patience and min(values[-self.patience :]) >= min(values[: -self.patience])

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The weights' validation loss, computed anew, is the lowest of all, and training stopped when patience ended."""

        seen: _Seen = work.state.get(self.name, _Seen())
        lowest = min((loss for _, loss in seen.losses), default=math.nan)
        now, items = _loss_of_all(work)
        yield Claim(
            "the weights are the best that were seen, by the loss of all validation items",
            math.isclose(now, lowest, rel_tol=1e-4),
            f"validation loss {now:.6g} of {items} items, lowest of {len(seen.losses)} {lowest:.6g}",
        )
        done = len(work.losses)
        times = [step for step in range(1, done + 1) if step % self.every == 0 or step == done]
        best, waited, ends = math.inf, 0, []
        for place, (_, loss) in enumerate(seen.losses):
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited >= self.patience:
                ends.append(place)
        yield Claim(
            f"it evaluated every {self.every} steps, and stopped when {self.patience} evaluations were no better",
            times == [step for step, _ in seen.losses]
            and (ends == [len(times) - 1] if done < work.steps else ends in ([], [len(times) - 1])),
            f"{done} of {work.steps} steps; " + ", ".join(f"{step}: {loss:.4g}" for step, loss in seen.losses),
        )


def _loss_of_all(work: Training) -> tuple[float, int]:
    """The task's mean loss over the validation split, as evidence computes it, and of how many items that is."""
    import torch

    from bench.models.modes import evaluating

    total = terms = items = 0.0
    batches = work.task.batches(
        "validation", work.tokenizer, batch_size=work.budget.eval_batch_size, max_length=work.budget.max_length
    )
    with evaluating(work.model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for batch in batches:
            there = batch.to(work.device)
            loss = work.task.criterion(work.model(**there.inputs), there)
            total, terms, items = (
                total + float(loss.double()) * there.weight,
                terms + there.weight,
                items + there.samples,
            )
    return total / terms, int(items)


def _validation_loss(training: Training) -> float:
    """The task's mean loss over the validation split, in evaluation mode.

    Raises:
        TaskError: there is no validation item.
    """
    import torch

    from bench.models.modes import evaluating

    losses, weights = [], []
    # A few batches in another mode are no reason to compile the model once more.
    with evaluating(training.model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for batch in training.batches("validation", shuffle=False):
            losses.append(float(training.task.criterion(training.outputs(batch), batch)) * batch.weight)
            weights.append(batch.weight)
    return math.fsum(losses) / math.fsum(weights)
