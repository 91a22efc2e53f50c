"""Recipes on a GPU, stage after stage and then served, and what makes a step wait for it.

The GPU is one of :mod:`tests.pretend`; with ``METHODBENCH_GPU=cuda`` it is the machine's own, as in ``tests/on_gpu.sh``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.execute import imports, worker
from bench.execute.forkserver import prepared
from bench.machine import machine
from bench.recipe import recipe
from bench.recipe.method import Trainer
from tests import jobs, pretend

REAL = os.environ.get("METHODBENCH_GPU") == "cuda"
PACKAGES = ("bitsandbytes", "peft", "torch_pruning", "torchao")


@dataclasses.dataclass(frozen=True)
class End:
    """How a recipe ended, and why; ``waits`` are those inside the clock, of each step after the first of its last trainer."""

    status: str
    reason: str = ""
    proven: frozenset[str] = frozenset()
    waits: tuple[tuple[str, ...], ...] = ()
    log: str = ""


class Gpu:
    """Runs recipes on a model, each in a process of its own. The processes are forked from one that has all imported."""

    def __init__(self, model: Path, model_type: str, folder: Path) -> None:
        context = prepared()
        self.model, self.folder = model, folder
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, model_type, folder / "log.txt"))
        self._process.start()
        theirs.close()
        self._ended: dict[str, End] = {}

    def run(self, text: str) -> End:
        """Each stage of a recipe, and what is left of it served; once for all who ask."""
        if text not in self._ended:
            self._connection.send((text, self.model, self.folder))
            assert self._connection.poll(250), f"{text} hangs"
            self._ended[text] = self._connection.recv()
        return self._ended[text]

    def close(self) -> None:
        """Let the process end."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()


def _serve(connection: Connection, model_type: str, log: Path) -> None:
    """Answer until nobody asks any more."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if not REAL:  # a process that has asked CUDA cannot be forked, and these ask
        imports.Imports(PACKAGES, (model_type,)).all()
        _pretend()
    gc.freeze()
    with contextlib.suppress(EOFError):
        while True:
            text, model, folder = connection.recv()
            log.write_text("")
            ours, theirs = multiprocessing.Pipe(duplex=False)
            if not (process := os.fork()):
                theirs.send(_end(text, model, folder))
                os._exit(0)
            theirs.close()
            try:
                end = ours.recv()
            except EOFError:
                end = End("failed", "the process died")
            os.waitpid(process, 0)
            connection.send(dataclasses.replace(end, log="" if end.status == "ok" else log.read_text()[-3000:]))


def _pretend() -> None:
    """From here on there are GPUs, whose tensors count as plain where their class is looked at."""
    from bench.stage import evidence

    pretend.start()
    plain = evidence._plain_matrix
    evidence._plain_matrix = lambda tensor: plain(getattr(tensor, "held", tensor))


def _end(text: str, model: Path, folder: Path) -> End:
    from bench.stage import loop

    clocks: list[Any] = []
    made = loop.step_clock

    def watched(device: Any, gpus: int = 1) -> Any:
        clocks.append((Cuda if REAL else Pretend)(made(device, gpus)))
        return clocks[-1]

    loop.step_clock = watched
    stages = recipe.parse(text).stages
    proven: set[str] = set()
    for depth in range(len(stages)):
        one = jobs.job(text, model, folder, depth=depth)
        one = dataclasses.replace(one, machine=here())
        status, reason, measured = worker.attempt(one, jobs.quiet)
        proven |= {claim["method"] for claim in measured.get("evidence", ())}
        if status != "ok":
            return End(status, reason, frozenset(proven))
    status, reason, _ = worker.attempt(dataclasses.replace(one, what="serve"), jobs.quiet)
    waits = clocks[-1].waits[1:] if clocks and isinstance(stages[-1].main, Trainer) else ()
    return End(status, reason if status == "ok" else f"served: {reason}", frozenset(proven), tuple(waits))


def here() -> machine.Machine:
    """The machine as a job is told of it."""
    if REAL:
        return machine.look("cuda", 1)
    return dataclasses.replace(machine.look("cpu", 1), device=pretend.KIND, gpus=pretend.GPUS)


class Pretend:
    """A clock that writes down, for each step, what made the host wait for a GPU."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.waits: list[tuple[str, ...]] = []

    def start(self) -> None:
        self.clock.start()
        pretend.waits = []

    def stop(self) -> None:
        self.waits.append(tuple(pretend.waits or ()))
        pretend.waits = None
        self.clock.stop()

    def seconds(self) -> list[float]:
        return self.clock.seconds()


class Cuda(Pretend):
    """The same by CUDA's own word: https://docs.pytorch.org/docs/stable/generated/torch.cuda.set_sync_debug_mode.html"""

    def start(self) -> None:
        import torch

        self.clock.start()
        self._caught = self._catch()
        self._seen = next(self._caught)
        torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        import torch

        torch.cuda.set_sync_debug_mode("default")
        next(self._caught, None)
        said = [one for one in self._seen if "synchroniz" in str(one.message)]
        self.waits.append(tuple(f"{one.message} at {one.filename}:{one.lineno}" for one in said))
        self.clock.stop()

    @staticmethod
    def _catch() -> Iterator[list[warnings.WarningMessage]]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield seen
