"""Gradual pruning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from bench.plan.context import PlanContext
from bench.recipe.errors import RecipeError
from bench.recipe.method import Modifier, Transform
from bench.stage.evidence import Claim
from methods import _masks

if TYPE_CHECKING:
    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Gradual(Modifier):
    """Prune while training: the share of zeros rises to the target's amount, fast at first and slower and slower.

    ``target`` is a method that zeroes an amount of the weights, such as `magnitude` or `wanda`. After a fraction x of the
    way from ``begin`` to ``end`` (fractions of the training's steps) that amount is ``1 − (1 − x)³`` of the target's (Zhu
    and Gupta 2017). It is applied anew ``every`` so many steps, and what is zero is kept zero after every step, also in
    later trainings. The paper prunes every 100 steps or more of runs a hundred times as long as those here, hence 10; the
    last quarter of the steps is left to recover in. All of it is inside of the clock.
    """

    name = "gradual"
    paper = "https://arxiv.org/abs/1710.01878"
    example = "full + gradual(magnitude(0.5))"
    order = 95  # after whatever else changes weights in a step
    adds = frozenset({"sparse"})
    refuses_beside = (
        ("stops_early", "{other} could end the training, or go back, before all is pruned; leave one of the two out"),
        ("several_models", "{other} trains several models, of which one would be pruned; leave one of the two out"),
    )

    target: Transform
    begin: Annotated[float, Ge(0), Lt(1)] = 0.0
    end: Annotated[float, Gt(0), Le(1)] = 0.75
    every: Annotated[int, Ge(1)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin >= self.end:
            raise RecipeError(
                f"gradual: it begins at {self.begin:g} and ends at {self.end:g}; `end` comes after `begin`"
            )

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The target has an amount, and the weights that it zeroes are those that train, to the end."""
        if isinstance(self.target, _masks.Pruning):
            yield from self.target.problems(context)
        else:
            yield f"it raises a method's amount step by step, and {self.target.name} has none; use magnitude or wanda"
        if not context.stage.main.updates_all_weights:  # type: ignore[union-attr]
            yield f"{context.stage.main.name} keeps weights frozen, and those would be pruned too; use full"

    def on_step(self, training: Training) -> None:
        """Prune more if it is time; else put the zeros back."""
        amount = self.amount(training.step + 1, training.steps)
        if amount is None:
            _masks.restore(training.state.get(self.name, []))
        else:
            self.target.prune(training, amount)  # type: ignore[attr-defined]
            training.state[self.name] = _masks.masks(training)

    def on_step_end(self, training: Training) -> None:
        """Read off how much is zero, for the evidence."""
        weights = [layer.weight for layer in _masks.layers(training.model).values()]
        zeros = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
        total = sum(weight.numel() for weight in weights)
        training.state.setdefault(f"{self.name} shares", []).append(zeros / total)

    def maintained(self) -> tuple[Transform, ...]:
        """The target: its zeros are kept as if it had come after the training."""
        return (self.target,)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """There are the target's zeros at the end, and after each step there were as many as the curve says."""

        yield from self.target.pattern(work)  # type: ignore[attr-defined]
        seen: list[float] = work.state.get(f"{self.name} shares", [])
        begin = self.begin * work.steps
        end = max(int(begin) + 1, round(self.end * work.steps))
        target: float = self.target.amount  # type: ignore[attr-defined]
        wanted, share = [], 0.0
        for done in range(1, len(work.losses) + 1):
            if begin < done <= end and (done % self.every == 0 or done == end):
                left = (end - done) / (end - begin)
                share = target - target * left**3
            wanted.append(share)
        # Amounts are to the nearest whole weight, of a row at the least.
        narrow = min(layer.in_features for layer in _masks.layers(work.model).values())
        off = max((abs(found - share) for found, share in zip(seen, wanted, strict=False)), default=1.0)
        yield Claim(
            f"after each step so much was zero as the curve to {target:g} says, and nothing had grown again",
            len(seen) == len(wanted) > 0 and off <= 0.5 / narrow + 1e-3,
            f"off by {off:.4f} at most in {len(seen)} steps; " + ", ".join(f"{found:.3f}" for found in seen[:8]),
        )

    def amount(self, done: int, steps: int) -> float | None:
        """What to prune to after `done` of `steps`; None where nothing is due."""
        first = self.begin * steps
        last = max(int(first) + 1, round(self.end * steps))
        if not first < done <= last or (done % self.every and done != last):
            return None
        way = (done - first) / (last - first)
        return self.target.amount * (1 - (1 - way) ** 3)  # type: ignore[attr-defined, no-any-return]
