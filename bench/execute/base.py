"""What is asked of an executor, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.record.schema import Status
from bench.stage.job import Job, Progress


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


class Executor(Protocol):
    """Runs jobs, each in a process of its own. Several threads may ask for one each at the same time."""

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Run `job` to its end, whatever that is; stop it after `timeout` seconds. Raises nothing of the job's."""

    def stop(self) -> None:
        """End the jobs that run in other threads: their calls return."""

    def close(self) -> None:
        """Let go of processes that wait for jobs."""
