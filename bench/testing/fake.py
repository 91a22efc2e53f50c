"""An executor without a model: for testing order, resume, sharing and faults."""

from __future__ import annotations

from collections.abc import Callable

from bench.execute.base import Outcome
from bench.stage.job import Job, Progress


class Fake:
    """Answers each job by `behave`, leaves an empty checkpoint where a stage would, and remembers the jobs."""

    def __init__(self, behave: Callable[[Job], Outcome] = lambda job: Outcome("ok")) -> None:
        self.behave = behave
        self.jobs: list[Job] = []

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Answer at once."""
        self.jobs.append(job)
        outcome = self.behave(job)
        if job.what == "stage" and outcome.status == "ok":
            job.output.write_bytes(b"")
        return outcome

    def stop(self) -> None:
        """Nothing is running."""

    def close(self) -> None:
        """Nothing is held."""
