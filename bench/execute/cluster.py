"""The executor of several machines: each job is a task of a Ray cluster.

Whichever machine Ray chooses forks the job from a server of its own, as :mod:`bench.execute.forkserver` does here.
Checkpoints go there and come back through Ray's object store, or lie in a results folder that all machines share.
"""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bench import checkpoint, machine
from bench.execute.base import Job, Outcome, Progress
from bench.execute.forkserver import ForkServer

Through = Literal["object-store", "shared-folder"]
"""How checkpoints reach other machines."""

_READ = {"stage": ("input", "reference"), "serve": ("output", "reference"), "make": ()}
"""The checkpoints that each kind of job reads."""


class Cluster:
    """Runs jobs on the machines of a Ray cluster: of the one that ``RAY_ADDRESS`` names or that runs here, or else of a
    new one, of this machine alone.

    A job whose machine or process is lost is tried once more, and then ``failed``. `preload` is as ForkServer's.

    Raises:
        ConnectionError: there is no cluster at ``RAY_ADDRESS``.
    """

    def __init__(self, preload: Sequence[str] = (), through: Through = "object-store") -> None:
        import ray

        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        self._preload = tuple(preload)
        self._through = through
        self._stored: dict[Path, Any] = {}
        self._running: set[Any] = set()
        # A machine that is lost is not the job's fault, so the job is tried once more; its own end is its end.
        self._do = ray.remote(max_retries=1)(_do)

    def room(self, threads: int) -> int:
        """How many jobs of so many threads the machines have room for now."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Run `job` on some machine. How far it is, nobody is told."""
        import ray
        from ray.exceptions import RayError

        from bench import recipe

        processes = recipe.parse(job.recipe).stages[-1].processes
        gpus = processes if job.machine.device == "cuda" else 0
        task = self._do.options(num_cpus=job.machine.threads * processes, num_gpus=gpus)
        files = self._files(job) if self._through == "object-store" else {}
        names = list(files) if self._through == "object-store" else None
        reference = task.remote(job, self._preload, timeout, names, *files.values())
        self._running.add(reference)
        outcome: Outcome
        made: bytes | None
        try:
            outcome, made = ray.get(reference)
        except RayError as error:
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return Outcome("failed", f"the machine or process that ran it was lost, twice: {said}")
        finally:
            self._running.discard(reference)
        if made is not None:
            checkpoint.write(job.output, made)
        return outcome

    def stop(self) -> None:
        """Cancel the tasks that run."""
        import ray

        for reference in list(self._running):
            ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was made for this ends."""
        import ray

        ray.shutdown()

    def _files(self, job: Job) -> Mapping[str, Any]:
        """The checkpoints that `job` reads, each put into the object store once."""
        import ray

        for gone in [path for path in self._stored if not path.exists()]:
            del self._stored[gone]
        found = {}
        for name in _READ[job.what]:
            if (path := getattr(job, name)) is not None:
                if path not in self._stored:
                    self._stored[path] = ray.put(path.read_bytes())
                found[name] = self._stored[path]
        return found


def _do(
    job: Job, preload: tuple[str, ...], timeout: float | None, names: list[str] | None, *files: bytes
) -> tuple[Outcome, bytes | None]:
    """On the machine that was chosen: do `job`, and send back what it left, where the checkpoints `names` were sent along.

    Without names the results folder is here too.
    """
    with tempfile.TemporaryDirectory(prefix="methodbench-") as folder:
        moved = job
        if names is not None:
            checkpoint.folder(Path(folder))
            moved = replace(job, log=Path(folder) / "log", output=checkpoint.path(Path(folder), "output"))
            for name, content in zip(names, files, strict=True):
                there: dict[str, Any] = {name: checkpoint.path(Path(folder), name)}
                moved = replace(moved, **there)
                checkpoint.write(there[name], content)
        outcome = _server(preload).run(replace(moved, gpus=()), timeout, lambda what, done, of: None)
        here = machine.look(job.machine.device, job.machine.threads)
        measured = {**outcome.measured, "environment": machine.environment(here, job.base)}
        left = names is not None and job.what == "stage" and outcome.status == "ok"
        return replace(outcome, measured=measured), moved.output.read_bytes() if left else None


@functools.cache
def _server(preload: tuple[str, ...]) -> ForkServer:
    """This machine's, which stays for the next job."""
    return ForkServer(preload)
