"""What is asked of an executor, and what comes back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.machine import Machine
from bench.suite import Budget, DataTable, Measure

Status = Literal["ok", "oom", "failed", "timeout", "invalid", "diverged", "refused"]

Progress = Callable[[str, int, int], None]
"""Told what is going on, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Share:
    """What one machine does of a stage that several machines share: `here` of its processes, from number `first` on.

    They meet the others at ``address``, where the machine of the first process listens (``listener``); None as long as
    it does not.
    """

    first: int
    here: int
    address: tuple[str, int] | None = None
    listener: socket.socket | None = None


@dataclass(frozen=True)
class Job:
    """One piece of work for one process of its own.

    ``what`` is "stage" (run a node, leave the model in ``output``), "serve" (load ``output``, measure inference) or
    "make" (make the model that stages begin with).
    ``recipe`` has every argument written out; ``input`` is the checkpoint that the parent left, ``reference`` that of
    the uncompressed model, where a stage made it. ``gpus`` are those that it may see, as ``CUDA_VISIBLE_DEVICES`` names
    them; all where none is named. ``share`` is this machine's, where it does not run all of a stage's processes.
    ``temporary`` is the folder for its temporary files, made before it and removed after it, whatever its end; the
    system's where there is none.
    """

    what: Literal["stage", "serve", "make"]
    node: str
    recipe: str
    model: str
    task: str | DataTable
    base: Path
    seed: int
    budget: Budget
    measure: Measure
    machine: Machine
    input: Path | None
    output: Path
    log: Path
    process: int = 0
    reference: Path | None = None
    gpus: tuple[str, ...] = ()
    share: Share | None = None
    temporary: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``measured`` goes into the record as it is; ``log`` is the end of what it printed.

    ``beside`` says that another job ran on the same machine meanwhile.
    """

    status: Status
    reason: str = ""
    log: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False


def threads_each(machine: Machine, processes: int) -> int:
    """The CPU threads of each of a job's processes: they are divided, but where there are too few, each has one."""
    return max(1, machine.threads // processes)


class Executor(Protocol):
    """Runs jobs, each in a process of its own. Several threads may ask for one each at the same time."""

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Run `job` to its end, whatever that is; stop it after `timeout` seconds. Raises nothing of the job's."""

    def stop(self) -> None:
        """End the jobs that run in other threads: their calls return."""

    def close(self) -> None:
        """Let go of processes that wait for jobs."""
