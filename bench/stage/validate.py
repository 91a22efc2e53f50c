"""Scores of a model on the validation split while it trains, and the way back to the best of them."""

from __future__ import annotations

from typing import Any

import torch

from bench.metrics import registry
from bench.models.modes import evaluating
from bench.recipe.claim import Claim
from bench.stage.loop import Training


class Validation:
    """The scores of a training after each of so many steps, and after the last.

    ``curve`` has them in order: ``{"step": steps taken, "metrics": those of the task}``. They are taken outside of the steps'
    clock, with the model in evaluation mode, and draw no random number of the training's. Where it `keeps` the best, a copy of
    the weights that train is held, and :meth:`restore` goes back to it.
    """

    def __init__(self, training: Training, every: int, *, keeps: bool) -> None:
        self.training = training
        self.every = every
        self.keeps = keeps
        self.curve: list[dict[str, Any]] = []
        self.best: list[torch.Tensor] = []
        self.higher = registry.metric(training.task.primary).better == "higher"

    def due(self) -> bool:
        """Whether the step that was just taken is one to score after."""
        done = self.training.step + 1
        return done % self.every == 0 or done == self.training.steps or self.training.stop

    def score(self) -> None:
        """Score the model as it now stands."""
        training, done = self.training, self.training.step + 1
        training.progress("validate", done, training.steps)
        self.curve.append({"step": done, "metrics": self._metrics()})
        if self.keeps and self.best_step() == done:
            self.best = [parameter.detach().clone() for parameter in training.parameters]

    def best_step(self) -> int:
        """After which step the task's primary metric was best: of equal ones the first."""
        return int(self._best()["step"])

    def restore(self) -> Claim:
        """Go back to the best weights, and prove it by a score of them that is computed anew."""
        with torch.no_grad():
            for parameter, best in zip(self.training.parameters, self.best, strict=True):
                parameter.copy_(best)
        primary = self.training.task.primary
        now, best_score = self._metrics()[primary], self._best()["metrics"][primary]
        return Claim(
            f"the weights are those with the best validation score of {len(self.curve)}",
            abs(now - best_score) <= 1e-4 * max(1.0, abs(best_score)),
            f"{now:.6g} now, {best_score:.6g} after step {self.best_step()}",
        )

    def state_dict(self) -> dict[str, Any]:
        """What it has seen, to go on in another process."""
        return {"curve": self.curve, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what another one has seen."""
        self.curve, self.best = state["curve"], state["best"]

    def _best(self) -> dict[str, Any]:
        primary = self.training.task.primary
        return max(self.curve, key=lambda at: at["metrics"][primary] * (1 if self.higher else -1))

    def _metrics(self) -> dict[str, float]:
        training = self.training
        # A few batches in another mode are no reason to compile the model once more.
        with evaluating(training.model), torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            quality = training.task.evaluate(
                training.model,
                training.tokenizer,
                batch_size=training.budget.eval_batch_size,
                max_length=training.budget.max_length,
                split="validation",
            )
        return {name: value for name, value in quality.metrics.items() if name in training.task.metrics}
