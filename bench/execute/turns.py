"""Two trainings in turns, each in a process of its own that is forked from the job's.

The first is the other's measure: A is the training that ``job.turns`` names, B the job's own. Both are alive and one waits while
the other takes some steps, in the order A B B A; where memory does not hold both, a process of A, two of B and one of A come
one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Self

from bench.execute import worker
from bench.execute.forkserver import died, kernel_kills
from bench.measure.trust import against
from bench.measure.turns import Timing, order
from bench.record.schema import Status
from bench.stage.job import Job, Progress

SIDES = ("theirs", "ours")
NAMES = ("the baseline's training", "the training")


def run(job: Job, progress: Progress) -> tuple[Status, str, dict[str, Any]]:
    """How the turns ended and why; and each side's seconds for a token in each turn, with whether they can be trusted."""
    turns = job.turns
    assert turns is not None
    sides = replace(job, recipe=turns.recipe, input=job.turns_input), job
    clock = "cuda" if job.machine.device == "cuda" else "wall"
    number = 2 * job.measure.turns  # A B B A are two turns of each
    taken: list[list[Timing]] = [[], []]
    trust: list[list[dict[str, Any]]] = [[], []]

    def tell(done: int) -> None:
        progress("turns", done, 2 * number)

    try:
        if turns.alive:
            with ExitStack() as until:
                both = [until.enter_context(Side(name, each, number)) for name, each in zip(NAMES, sides, strict=True)]
                for side in both:
                    side.warm()
                for done, which in enumerate(order(number)):
                    tell(done)
                    taken[which].append(both[which].take())
                for which, side in enumerate(both):
                    trust[which].append(side.end())
        else:
            for done, which in enumerate(order(2)):
                with Side(NAMES[which], sides[which], number // 2) as side:
                    side.warm()
                    for turn in range(number // 2):
                        tell(done * number // 2 + turn)
                        taken[which].append(side.take())
                    trust[which].append(side.end())
    except SideError as error:
        return error.status, str(error), {}
    measured: dict[str, Any] = {"clock": clock, "steps": turns.steps, "alive": turns.alive}
    for name, seconds, figures in zip(SIDES, taken, trust, strict=True):
        reason = "; ".join(filter(None, (against(each, clock) for each in figures)))
        measured[name] = {
            "seconds": [each.by(clock) for each in seconds],
            "cpu_seconds": [each.cpu for each in seconds],
            "trust": {**figures[-1], "contended": bool(reason), "reason": reason},
        }
    return "ok", "", measured


class SideError(Exception):
    """A side's process ended before its time, with this ``status``. The message says why."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Side:
    """A process that trains, `turns` times, when it is told to; `name` is for errors. As a context manager, it ends with the block."""

    def __init__(self, name: str, job: Job, turns: int) -> None:
        self._name = name
        context = multiprocessing.get_context("fork")
        self._killed_before = kernel_kills()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_side, args=(theirs, job, turns, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def warm(self) -> None:
        """Wait until it is loaded, which both sides do at once, and let it take its warm-up steps, which one side does at a time.

        Raises:
            SideError: it cannot.
        """
        self._answer()
        self._ask("warm")

    def take(self) -> Timing:
        """Its turn.

        Raises:
            SideError: it failed.
        """
        found: Timing = self._ask("take")
        return found

    def end(self) -> dict[str, Any]:
        """What :meth:`bench.measure.trust.Contention.result` says of its turns.

        Raises:
            SideError: it failed.
        """
        found: dict[str, Any] = self._ask("end")
        return found

    def _ask(self, what: str) -> Any:
        with suppress(OSError):  # what it said last says why
            self._connection.send(what)
        return self._answer()

    def _answer(self) -> Any:
        try:
            status, reason, said = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            (status, reason), said = died(self._process.exitcode, self._killed_before), None
        if status != "ok":
            raise SideError(status, f"{self._name}: {reason}")
        return said


def _side(connection: Connection, job: Job, turns: int, parent: int) -> None:
    worker.follow(parent)
    try:
        for said in _steps(job, turns, connection):
            connection.send(("ok", "", said))
    except Exception as error:
        connection.send((*worker.ending(error), None))


def _steps(job: Job, turns: int, asked: Connection) -> Iterator[object]:
    """The answers of a side, one each time that it is asked for something, and one before that it is loaded."""
    import torch

    from bench.measure.trust import Contention
    from bench.stage import stage
    from bench.stage import turns as training

    assert job.turns is not None
    worker.use(job.machine)
    worker.hold(job)
    warmup = max(1, job.budget.warmup_steps)
    begun = training.begin(job, *stage.opened(job), at_least=warmup + turns * job.turns.steps)
    take = training.taking(*begun)
    yield None
    asked.recv()
    yield take(warmup)
    with Contention(torch.device(job.machine.device), beside=int(job.turns.alive)) as contention:
        while asked.recv() == "take":
            yield take(job.turns.steps)
    yield contention.result()
