"""What trials of learning rates found, as a run recorded it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.metrics.metric import Metric, at
from bench.metrics.registry import metrics
from bench.metrics.units import show
from bench.record.schema import Run, Status, Tuned

if TYPE_CHECKING:
    from bench.record.reading import Records


@dataclass(frozen=True, slots=True)
class Trial:
    """A recipe trained with a learning rate: its ``value`` on the validation split, None where it did not end ok.

    ``seconds`` is the wall time of all its stages.
    """

    lr: float
    value: float | None
    status: Status | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """The trials of a recipe, lowest rate first, and the rate that was chosen by ``metric``; None where no trial ended ok."""

    recipe: str
    metric: Metric
    seed: int
    trials: tuple[Trial, ...]
    lr: float | None

    @property
    def best(self) -> Trial | None:
        """The trial that was chosen."""
        return next((trial for trial in self.trials if trial.lr == self.lr), None)

    @property
    def seconds(self) -> float:
        """The wall time of all trials. Stages that recipes share are in each one's time."""
        return math.fsum(trial.seconds for trial in self.trials)

    @property
    def beyond(self) -> tuple[float, ...]:
        """Two rates to add, where the best lies at an edge of the grid: they go on as the last two rates there do."""
        rates = [trial.lr for trial in self.trials]
        if self.lr is None or not self.edge:
            return ()
        ratio = rates[0] / rates[1] if self.edge == "lowest" else rates[-1] / rates[-2]
        return tuple(float(f"{self.lr * ratio**power:.2g}") for power in (1, 2))

    def __str__(self) -> str:
        if self.best is None or self.best.value is None:
            return "no trial ended ok, so that it runs with its own rate"
        value = f"lr {self.lr:g}, with a validation {self.metric.title.lower()} of {show(self.best.value, self.metric.unit)}"
        return (
            f"{value}; that is the {self.edge} rate tried: add {', '.join(f'{rate:g}' for rate in self.beyond)}"
            if self.edge
            else value
        )

    @property
    def edge(self) -> str:
        """Whether the best is the ``lowest`` or the ``highest`` rate of the grid; empty where it is neither."""
        rates = [trial.lr for trial in self.trials]
        return {rates[0]: "lowest", rates[-1]: "highest"}.get(self.lr or 0.0, "") if len(rates) > 1 else ""


def of_run(run: Run, model: str, task: str, records: Records) -> Iterator[Tuning]:
    """The tunings of a `run` for a model and a task."""
    for tuned in run.tuning or ():
        metric = metrics().get(tuned.metric)
        if (tuned.model, tuned.task) == (model, task) and metric is not None:
            yield of(tuned, metric, records)


def of(tuned: Tuned, metric: Metric, records: Records) -> Tuning:
    """What was `tuned`, by its `metric`, with what `records` say of each trial."""
    trials = tuple(read_trial(trial.lr, trial.node, metric, records) for trial in tuned.trials)
    return Tuning(tuned.name, metric, tuned.seed, trials, tuned.lr)


def read_trial(lr: float, node: str, metric: Metric, records: Records) -> Trial:
    """What `records` say of the trial with this rate that the stage `node` ended, by `metric`."""
    last = records.nodes.get(node)
    if last is None:  # a stage before it did not end ok
        return Trial(lr, None, None, 0.0)
    path = records.path(node)
    times = (at(stage, "seconds", "total") for stage in path)
    value = (last.quality.metrics or {}).get(metric.name) if last.quality else None
    return Trial(
        lr,
        value if last.status == "ok" else None,
        last.status,
        math.fsum(seconds for seconds in times if isinstance(seconds, float | int)),
    )
