"""What a method's hooks are given in a stage's own process."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.metrics.registry import check_declared
from bench.models.modes import evaluating
from bench.recipe.facts import facts_after, with_inner
from bench.stage import evidence
from bench.stage.job import Progress, untold
from bench.tasks.base import on_device

if TYPE_CHECKING:
    from bench.machine.machine import Machine
    from bench.recipe.declarations import Fact
    from bench.recipe.recipe import Stage
    from bench.stage.evidence import Snapshot
    from bench.suite.suite import Budget
    from bench.tasks.base import Batch, Split, Task


class Figures(UserDict[str, float]):
    """What the methods of a recipe's `stages` add to the last one's record, by name.

    Raises:
        MetricError: a figure is set that none of these methods declares.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._who = f"a method of {stages[-1]} adds the figure"
        self._declared = {
            figure
            for stage in stages
            for method in stage.methods
            for each in with_inner(method)
            for figure in each.figures
        }
        super().__init__()

    def __setitem__(self, name: str, value: float) -> None:
        check_declared([name], self._declared, self._who, "its `figures`")
        super().__setitem__(name, value)


class Work:
    """A model in the middle of a recipe, with the data and the machine at hand.

    ``seed`` differs from stage to stage of one recipe. Paths in a recipe are relative to ``suite_folder``. ``state`` is where
    a method's hooks leave what its own later hooks need, by the method's name. ``figures`` go into the record, and metrics
    read them from there; so does ``calibration``, which says what data a method that compresses looked at. ``facts`` are true
    of the model that arrives, as those that ``arrived`` are of it before the recipe.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        tokenizer: Any,
        task: Task,
        stage: Stage,
        before: tuple[Stage, ...],
        budget: Budget,
        machine: Machine,
        seed: int,
        suite_folder: Path = Path(),
        progress: Progress = untold,
        arrived: frozenset[Fact] = frozenset(),
    ) -> None:
        self.model = model
        self.facts = facts_after(before, arrived)
        self.tokenizer = tokenizer
        self.task = task
        self.stage = stage
        self.before = before
        self.budget = budget
        self.machine = machine
        self.seed = seed
        self.suite_folder = suite_folder
        self.progress = progress
        self.device = torch.device(machine.device)
        self.state: dict[str, Any] = {}
        self.figures = Figures((*before, stage))
        self.calibration: dict[str, Any] | None = None

    def batches(self, split: Split = "train", *, shuffle: bool = True) -> Iterator[Batch]:
        """Batches of the budget's size on the device: endless and shuffled, or one pass in order."""
        generator = torch.Generator().manual_seed(self.seed) if shuffle else None
        batches = self.task.batches(
            split,
            self.tokenizer,
            batch_size=self.budget.batch_size,
            max_length=self.budget.max_length,
            generator=generator,
        )
        return on_device(batches, self.device)

    @functools.cached_property
    def probe(self) -> Batch:
        """One fixed batch of training items, for evidence."""
        batch = next(self.batches(shuffle=False))
        # Of fewer items than a batch, some are there again, as in each step.
        return batch if batch.samples == self.budget.batch_size else next(self.batches())

    def outputs(self, batch: Batch) -> Any:
        """The model's outputs on `batch` as the model now stands."""
        return self.model(**batch.inputs)

    def probe_logits(self) -> torch.Tensor:
        """Logits on the probe batch in evaluation mode, float32 on the CPU: ``[terms, classes]``, :func:`sampled`."""
        with evaluating(self.model), torch.no_grad():
            return sampled(self.task.logits(self.outputs(self.probe), self.probe)).float().cpu()

    def snapshot(self) -> Snapshot:
        """The model as it now stands."""
        with evidence.input_types(self.model) as inputs:
            logits = self.probe_logits()
        return evidence.take(self.model, logits, inputs)

    @functools.cached_property
    def after(self) -> Snapshot:
        """The model after the stage; read it from ``evidence`` only."""
        return self.snapshot()


PROBED = 2**26
"""Logits that are compared at most, 256 MB of float32."""


def sampled(logits: torch.Tensor) -> torch.Tensor:
    """Of ``[terms, classes]`` as many terms, evenly spaced, as have :data:`PROBED` logits; most often all.

    Those of a large vocabulary at every position, on the host and twice, are more than the model.
    """
    terms, most = len(logits), max(1, PROBED // logits.shape[-1])
    return logits if terms <= most else logits[torch.arange(most, device=logits.device) * terms // most]
