"""A training that takes steps when it is told to, so that it can take turns with another."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.distributed.group import Group
from bench.measure.clock import Clocks
from bench.measure.turns import Timing
from bench.models.base import Model
from bench.stage import stage
from bench.stage.job import Job, untold
from bench.stage.loop import Training
from bench.tasks.base import Task


def begin(job: Job, source: Model, task: Task, *, at_least: int) -> tuple[Training, Clocks]:
    """The training of `job` before its first step, with the clocks that time it. It has `at_least` so many steps.

    All draw the batches of a first stage: those of other lengths take other times.
    """
    clocks = Clocks(torch.device(job.machine.device))
    training = stage.begin(job, source, task, untold, Group(), stage.Stopwatch(), clocks)
    assert isinstance(training, Training)
    training.seed = stage.seed_of(job, 1)
    training.steps = max(training.steps, at_least)
    training.prepare()
    stage.begin_training(training)
    return training, clocks


def taking(training: Training, clocks: Clocks) -> Callable[[int], Timing]:
    """What takes so many more steps of `training`, and gives the seconds of each real token in them."""
    steps = training.each_step()

    def take(number: int) -> Timing:
        before = sum(training.tokens)
        for _ in range(number):
            next(steps)
            training.stop = False
        return clocks.take(sum(training.tokens) - before)

    return take
