"""Schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier, Trainer
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Schedule(Modifier):
    """Warm the learning rate up from 0, then let it fall to 0 along a line or a cosine, or keep it.

    ``warmup`` is the share of the steps that it rises over, none by default, as in transformers; then the rate of the
    first step is 0. Built on ``transformers.get_scheduler``:
    https://huggingface.co/docs/transformers/main_classes/optimizer_schedules
    """

    name = "schedule"
    paper = "https://arxiv.org/abs/1608.03983"
    example = 'full + schedule("linear", warmup=0.1)'
    needs = ("transformers.optimization",)
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    schedule: Literal["linear", "cosine", "constant"]
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It must change the rate of a step, and leave one that is not 0."""
        trainer = context.stage.main
        steps = max(1, round(context.steps * trainer.share)) if isinstance(trainer, Trainer) else context.steps
        if self.schedule == "constant" and not self.warmup:
            yield "a constant rate with no warm-up is what there is without it; give `warmup` or leave it out"
        if self._warmup_steps(steps) >= steps:
            yield f"all of the training's {steps} steps would be warm-up, at too low a rate; lower `warmup` or raise budget.steps"

    def _warmup_steps(self, steps: int) -> int:
        return math.ceil(self.warmup * steps)

    def on_start(self, training: Training) -> None:
        """Compute the rates of all steps, as shares of the optimizer's own, and set the first."""
        import torch
        from transformers import get_scheduler

        warmup_steps = self._warmup_steps(training.steps)
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        # An optimizer of nothing much: so the real one stays as it is, and a step pays for no scheduler.
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=training.steps)
        shares = []
        for _ in range(training.steps + 1):
            shares.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        groups = training.optimizer.param_groups
        for group in groups:
            group["initial_lr"] = group["lr"]
            group["lr"] *= shares[0]
        training.state[self.name] = shares, [_rates(training)]

    def on_step(self, training: Training) -> None:
        """Set the next step's rate."""
        shares, _ = training.state.get(self.name, ({}, []))
        for group in training.optimizer.param_groups if shares else ():
            group["lr"] = group["initial_lr"] * shares[training.step + 1]

    def on_step_end(self, training: Training) -> None:
        """Read the next step's rate off the optimizer."""
        _, rates = training.state.get(self.name, ({}, []))
        rates.append(_rates(training))

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The rates read off the optimizer, before each step and now, are those of the formula."""

        done = len(work.losses)
        formula = [self._share(step, work.steps) for step in range(done + 1)]
        groups = work.optimizer.param_groups
        near = [_near(group["lr"], group.get("initial_lr", math.nan) * formula[-1]) for group in groups]
        yield Claim(
            f"after {done} of {work.steps} steps the rate is {formula[-1]:.4g} of the first",
            all(near),
            ", ".join(f"{group['lr']:.4g} of {group.get('initial_lr', math.nan):.4g}" for group in groups),
        )
        _, rates = work.state.get(self.name, ({}, []))
        # The full rate is the trainer's, or the optimizer's own where that is given.
        rated = [m for m in work.stage.modifiers if getattr(m, "optimizer", None) and getattr(m, "lr", None)]
        given = [float(getattr(m, "lr")) for m in rated]  # noqa: B009
        base = given[0] if given else work.trainer.lr
        off = [
            of_step
            for of_step, share in zip(rates, formula, strict=False)
            if not of_step or not all(_near(rate, base * share) for rate in of_step)
        ]
        every = [rate for of_step in rates for rate in of_step] or [math.nan]
        yield Claim(
            f"every step's rate was the formula's, of {base:g}",
            len(rates) == done + 1 and not off,
            f"{len(off)} of {len(rates)} were not; from {min(every):.4g} to {max(every):.4g}",
        )

    def _share(self, step: int, steps: int) -> float:
        """The share of the full rate at `step`, by the formula."""
        warmup = next(number for number in range(steps + 1) if number >= self.warmup * steps)
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}[
            self.schedule
        ]


def _rates(training: Training) -> list[float]:
    """Those of all groups."""
    return [float(group["lr"]) for group in training.optimizer.param_groups]


def _near(rate: float, wanted: float) -> bool:
    return math.isclose(rate, wanted, rel_tol=1e-6, abs_tol=1e-12)
