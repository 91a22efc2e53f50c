"""The executor of several machines: each job is a task of a Ray cluster.

Whichever machine Ray chooses forks the job from a server of its own, as :mod:`bench.execute.forkserver` does here. A
stage that is too large for any of them is a task on each of several, which looks after its share of the processes.
Checkpoints go there and come back through Ray's object store, or lie in a results folder that all machines share.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.execute.base import Outcome
from bench.execute.forkserver import ForkServer
from bench.execute.imports import NOTHING, Imports
from bench.execute.ranks import GRACE
from bench.execute.worker import GONE
from bench.machine import machine
from bench.machine.machine import Machine
from bench.stage import checkpoint
from bench.stage.job import Job, Progress, Share, threads_each, untold

if TYPE_CHECKING:
    from bench.recipe.recipe import Stage

Through = Literal["object-store", "shared-folder"]
"""How checkpoints reach other machines."""

_LOOK = 5.0
"""Seconds between two looks at whether the machines are still there that a job waits for."""

_LEFT = "a machine that had room for it left the cluster"

NOTICED = 60.0
"""Seconds within which Ray has noticed that a machine is lost, while others say that its processes are gone."""

_READ = {
    "stage": ("input", "uncompressed"), "serve": ("output", "uncompressed"), "turns": ("input", "turns_input"), "make": (),
    "untrained": (),
}  # fmt: skip
"""The checkpoints that each kind of job reads."""


@dataclass(eq=False)
class Visit:
    """A job's time on a machine, by that machine's clock. ``address`` is where it listens, if it does."""

    machine: str
    began: float
    address: tuple[str, int] | None = None
    ended: float = math.inf

    def met(self, other: Visit) -> bool:
        """Whether both were on one machine at one time."""
        return self.machine == other.machine and self.began < other.ended and other.began < self.ended


@dataclass
class Reply:
    """What a task comes to: how its job ended and when, and the checkpoint that it left."""

    outcome: Outcome
    made: bytes | None
    ended: float


class Cluster:
    """Runs jobs on the machines of a Ray cluster: of the one that ``RAY_ADDRESS`` names or that runs here, or else of a
    new one, of this machine alone.

    A job whose machine or process is lost is tried once more, and then ``failed``. ``held`` is as ForkServer's.

    Raises:
        ConnectionError: there is no cluster at ``RAY_ADDRESS``.
    """

    def __init__(self, through: Through = "object-store") -> None:
        import ray

        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        self.held = NOTHING
        self._through = through
        self._stored: dict[Path, Any] = {}
        self._running: set[Any] = set()
        self._visits: list[Visit] = []
        self._stopped = threading.Event()
        # What is lost is tried again here, with all that belongs together.
        self._do = ray.remote(max_retries=0, num_returns="streaming")(_do)

    def room(self, here: Machine) -> int:
        """How many jobs of one process the machines have room for."""
        return max(1, sum(_rooms(_each(here, 1, 1))))

    def shortage(self, stage: Stage, here: Machine) -> str:
        """What the machines lack for `stage`; "" where they can hold it."""
        return _lacks(stage.processes, _each(here, stage.processes, stage.gpus_each))

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Run `job` on some machine, or on as few as can hold it. How far it is, nobody is told."""
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        stage = job.stages[-1]
        processes, gpus = (stage.processes, stage.gpus_each) if job.what in ("stage", "turns") else (1, 1)
        each = _each(job.machine, processes, gpus)
        lost = ""
        for _ in range(2):
            if lacking := _lacks(processes, each):
                if lost:
                    return Outcome("failed", f"a machine was lost ({lost}), and the others cannot hold it: {lacking}")
                return Outcome("refused", lacking)
            try:
                return self._together(job, processes, each, timeout)
            except TaskCancelledError:
                return Outcome("failed", "stopped")
            except RayTaskError as error:
                return Outcome("failed", f"around the job: {type(error.cause).__name__}: {error.cause}")
            except RayError as error:
                if self._stopped.is_set():
                    return Outcome("failed", "stopped")
                lost = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return Outcome("failed", f"the machine or process that ran it was lost, twice: {lost}")

    def stop(self) -> None:
        """Cancel the tasks that run."""
        import ray

        self._stopped.set()
        for task in list(self._running):
            ray.cancel(task, force=True)

    def close(self) -> None:
        """Leave the cluster; one that was made for this ends."""
        import ray

        ray.shutdown()

    def _together(self, job: Job, processes: int, each: Mapping[str, int], timeout: float | None) -> Outcome:
        """Start a task for each machine's share, and wait: what the first comes to, or what went wrong in another.

        Raises:
            RayError: a machine or process was lost, or all were stopped; nothing of the job is left.
        """
        import ray
        from ray.exceptions import RayError
        from ray.util.placement_group import remove_placement_group

        if not (parts := divided(processes, _rooms(each))):
            raise RayError(_LEFT)
        group = self._reserve(parts, each) if len(parts) > 1 else None
        tasks: list[Any] = []
        visits: dict[int, Visit] = {}
        replies: dict[int, Reply] = {}
        try:
            if group is None:
                tasks.append(self._start(job, timeout, _times(each, processes)))
            else:
                address = None
                for number, (first, here) in enumerate(zip(accumulate(parts, initial=0), parts, strict=False)):
                    # The first process alone looks at the uncompressed model.
                    mine = replace(
                        job, share=Share(first, here, address), uncompressed=None if first else job.uncompressed
                    )
                    tasks.append(self._start(mine, timeout, _times(each, here), group, number))
                    if first == 0:
                        visits[0] = self._visit(ray.get(next(tasks[0])))
                        address = visits[0].address
            self._collect(tasks, visits, replies, lambda: _lacks(processes, each))
        finally:
            for number, task in enumerate(tasks):
                if number not in replies:
                    ray.cancel(task, force=True)
                # To its very end, so that its process has time to be ready for the next one, or is gone.
                with contextlib.suppress(RayError):
                    for reference in task:
                        ray.get(reference)
                self._running.discard(task)
            for visit in visits.values():
                visit.ended = time.time() if visit.ended == math.inf else visit.ended
            if group is not None:
                remove_placement_group(group)
        failed = [reply for reply in replies.values() if reply.outcome.status != "ok"]
        # Where a process is gone, those of other machines only say so.
        reply = min(failed, key=lambda reply: GONE in reply.outcome.reason, default=None) or replies[0]
        if reply.made is not None:
            checkpoint.write(job.output, reply.made)
        beside = any(mine.met(other) for mine in visits.values() for other in self._visits if other is not mine)
        return replace(reply.outcome, beside=beside)

    def _start(
        self, job: Job, timeout: float | None, takes: Mapping[str, int], group: Any = None, number: int = 0
    ) -> Any:
        """Start a task, which yields its Visit and then its Reply, on the machine of that number in `group`, if any."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        where = {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, number)} if group is not None else {}
        task = self._do.options(num_cpus=takes["CPU"], num_gpus=takes.get("GPU", 0), **where)
        files = self._files(job) if self._through == "object-store" else {}
        names = list(files) if self._through == "object-store" else None
        started = task.remote(job, self.held, timeout, names, *files.values())
        self._running.add(started)
        if self._stopped.is_set():
            ray.cancel(started, force=True)
        return started

    def _visit(self, visit: Visit) -> Visit:
        self._visits.append(visit)
        return visit

    def _collect(
        self, tasks: Sequence[Any], visits: dict[int, Visit], replies: dict[int, Reply], lacking: Callable[[], str]
    ) -> None:
        """Wait until all `tasks` have answered, or one has ended badly and the others had time to say what they know."""
        import ray
        from ray.exceptions import RayError

        until = math.inf
        while len(replies) < len(tasks):
            waiting = [task for number, task in enumerate(tasks) if number not in replies]
            ready, _ = ray.wait(waiting, timeout=max(0.0, min(_LOOK, until - time.monotonic())))
            if not ready:
                if time.monotonic() >= until:
                    return
                if not visits and lacking():
                    raise RayError(_LEFT)
                continue
            number = tasks.index(ready[0])
            said = ray.get(next(ready[0]))
            if isinstance(said, Visit):
                visits[number] = self._visit(said)
                continue
            replies[number] = said
            visits[number].ended = said.ended
            if said.outcome.status != "ok":
                until = min(until, time.monotonic() + (NOTICED if GONE in said.outcome.reason else GRACE))

    def _reserve(self, parts: Sequence[int], each: Mapping[str, int]) -> Any:
        """Room on as many machines as there are `parts`, all at once: no two stages wait for each other's."""
        from ray.exceptions import RayError
        from ray.util.placement_group import placement_group, remove_placement_group

        group = placement_group([_times(each, here) for here in parts], strategy="STRICT_SPREAD")
        while not group.wait(_LOOK):
            if self._stopped.is_set() or _lacks(sum(parts), each):
                remove_placement_group(group)
                raise RayError(_LEFT)
        return group

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


def divided(processes: int, rooms: Sequence[int]) -> list[int]:
    """How many of `processes` each machine runs, as few machines as can be and as evenly; `rooms` is what each holds.

    Empty where all together cannot hold them.
    """
    most = sorted(rooms, reverse=True)
    number = next((number for number in range(1, len(most) + 1) if sum(most[:number]) >= processes), 0)
    parts: list[int] = []
    for left in range(number, 0, -1):  # the smallest machine first: what it cannot hold, the others can
        parts.append(min(most[left - 1], (processes - sum(parts)) // left))
    return sorted(parts, reverse=True)


def _each(here: Machine, processes: int, gpus: int) -> dict[str, int]:
    """What each of a stage's processes takes of its machine, in Ray's words."""
    cpus = {"CPU": threads_each(here, processes)}
    return cpus | {"GPU": gpus} if here.device == "cuda" else cpus


def _times(each: Mapping[str, int], processes: int) -> dict[str, int]:
    return {what: number * processes for what, number in each.items()}


def _machines() -> list[Mapping[str, float]]:
    """What each machine of the cluster has, those that are alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _rooms(each: Mapping[str, int]) -> list[int]:
    """How many processes each machine of the cluster holds."""
    return [min(int(has.get(what, 0)) // number for what, number in each.items()) for has in _machines()]


def _lacks(processes: int, each: Mapping[str, int]) -> str:
    if sum(_rooms(each)) >= processes:
        return ""
    machines = [{what: int(has.get(what, 0)) for what in each} for has in _machines()]
    has = ", ".join(_said(one) for one in machines if any(one.values())) or "none"
    if processes == 1:
        mend = "lower --threads, or add one that has them"
        return f"it takes {_said(each)} on one machine, and those of the cluster have {has}; {mend}"
    mend = "divide it among fewer, or add machines"
    return f"it takes {_said(each)} for each of {processes} processes, and the cluster's machines have {has}; {mend}"


def _said(resources: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {what}{'s' * (number != 1)}" for what, number in resources.items())


def _do(
    job: Job, held: Imports, timeout: float | None, names: list[str] | None, *files: bytes
) -> Iterator[Visit | Reply]:
    """On the machine that was chosen: do `job`, and send back what it left, where the checkpoints `names` were sent along.

    Without names the results folder is here too.
    """
    import ray

    context = ray.get_runtime_context()
    visit = Visit(context.get_node_id(), time.time())
    with tempfile.TemporaryDirectory(prefix="methodbench-") as folder, contextlib.ExitStack() as open_:
        # GPUs by name: the server that forks the job may be an earlier job's, which had others.
        moved = replace(
            job, gpus=tuple(context.get_accelerator_ids()["GPU"]), temporary=Path(folder) / "temporary" / job.node
        )
        first = job.share is None or job.share.first == 0
        if job.share is not None and first:
            listener = open_.enter_context(socket.create_server((ray.util.get_node_ip_address(), 0)))
            host, port = listener.getsockname()[:2]
            visit.address = host, port
            moved = replace(moved, share=replace(job.share, address=visit.address, listener=listener))
        yield visit
        if names is not None or not first:
            moved = replace(moved, log=Path(folder) / "log")
        if names is not None:
            checkpoint.folder(Path(folder))
            # A folder that goes with the job is no place for what outlives it.
            moved = replace(moved, output=checkpoint.path(Path(folder), "output"), checkpoint_minutes=0)
            for name, content in zip(names, files, strict=True):
                there: dict[str, Any] = {name: checkpoint.path(Path(folder), name)}
                moved = replace(moved, **there)
                checkpoint.write(there[name], content)
        outcome = _server(held).run(moved, timeout, untold)
        here = machine.look(job.machine.device, job.machine.threads)
        measured = {**outcome.measured, "environment": machine.environment(here, job.suite_folder)}
        left = names is not None and job.what == "stage" and first and outcome.status == "ok"
        made = moved.output.read_bytes() if left else None
        yield Reply(replace(outcome, measured=measured), made, time.time())


@functools.cache
def _server(held: Imports) -> ForkServer:
    """This machine's, which stays for the next job. So its socket is in no job's folder, which goes with the job."""
    get_temp_dir()  # which multiprocessing stays with
    return ForkServer(held)
