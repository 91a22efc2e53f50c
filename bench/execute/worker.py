"""What runs in a job's own process, forked from a server that holds the heavy imports already."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import disk, output
from bench.machine.machine import Machine
from bench.record.schema import Status
from bench.stage.job import UNSEEN, Job, Progress

if TYPE_CHECKING:
    from bench.distributed.group import Group


def main(connection: Connection, job: Job) -> None:
    """Do `job` and send ``("done", status, reason, measured)``; before it, any number of ``("progress", …)``.

    And of ``("kept", measured)``: where the process is ended from outside, what was measured until then.
    """
    started = time.perf_counter()
    follow(os.getppid())
    # Ctrl-C reaches the whole group; what becomes of this process is the parent's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if job.gpus:  # CUDA looks at it when it is first used, which nobody has done yet
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job.gpus)
    if job.temporary is not None:
        # A compiler runs in a folder of its own, where a relative path is another.
        os.environ["TMPDIR"] = tempfile.tempdir = str(job.temporary.absolute())
    with output.unfailing(job.log) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            status, reason, measured = attempt(job, Throttled(connection))
        except Exception as error:  # of what is around the job, as an import: it must be in the log while there is one
            traceback.print_exc()
            status, reason, measured = "failed", f"{type(error).__name__}: {error}", {}
        log.flush()
        measured.setdefault("seconds", {})["process"] = time.perf_counter() - started
        connection.send(("done", status, reason, measured))
        connection.close()


def attempt(job: Job, progress: Progress) -> tuple[Status, str, dict[str, Any]]:
    """Do `job` in this process, or in as many as its stage is divided among: how it ended, why, what was measured."""
    if job.what == "stage" and (layout := job.stages[-1].layout):
        from bench.execute import ranks

        return ranks.run(job, layout, progress)
    if job.what == "turns":
        from bench.execute import turns

        return turns.run(job, progress)
    return run_job(job, progress)


def run_job(
    job: Job, progress: Progress, meet: Callable[[], Group] | None = None
) -> tuple[Status, str, dict[str, Any]]:
    """Do `job` in this process, which by `meet` is one of several that do.

    What was measured before an error is in the answer, whatever the error.
    """
    measured: dict[str, Any] = {}
    if isinstance(progress, Throttled):
        progress.measured = measured
    try:
        from bench.stage import export, serve, stage, untrained

        use(job.machine)
        if job.what == "make":
            job.source().make(progress)
            return "ok", "", {}
        hold(job)
        group = meet() if meet else None
        if job.what == "stage":
            stage.run(job, progress, group, measured)
        elif job.what == "untrained":
            untrained.run(job, progress, measured)
        elif job.what == "export":
            export.run(job, progress, measured)
        else:
            serve.run(job, progress, measured)
        false = [claim for claim in measured.get("evidence", ()) if not claim["holds"]]
        if false:
            said = "; ".join(f"{claim['method']}: not so that {claim['text']} ({claim['seen']})" for claim in false)
            return "invalid", said, measured
        return "ok", "", measured
    except Exception as error:
        return *ending(error), measured


def use(machine: Machine) -> None:
    """Have torch use the threads and the device of `machine`.

    Raises:
        RuntimeError: there is no GPU, where one was planned for.
    """
    import torch

    torch.set_num_threads(machine.threads)
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("a GPU was planned for, and torch finds none: see `methodbench doctor`")


def hold(job: Job) -> None:
    """Import what `job` needs, before anything of it is measured."""
    from bench.execute import imports

    if job.allow_remote_code:
        # A checkpoint names classes of modules that transformers wrote.
        from transformers.dynamic_module_utils import init_hf_modules

        init_hf_modules()
    source = job.source()
    imports.of(job.stages, [source.model_type()], job.machine.device, source.needs()).all()


def ending(error: Exception) -> tuple[Status, str]:
    """How a job ends by `error`, and why; what nobody expects is printed whole."""
    from bench.measure.absent import out_of_memory
    from bench.models.base import ModelError
    from bench.recipe.errors import Refusal
    from bench.stage.export import Unlike
    from bench.stage.loop import Diverged, NothingToTrain

    match error:
        case Diverged():
            return "diverged", str(error)
        case NothingToTrain():
            return "invalid", str(error)
        case ModelError() | Refusal():
            return "refused", str(error)
        case Unlike():
            return "failed", str(error)
    traceback.print_exception(error)
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if out_of_memory(error):
        return "oom", text
    if disk.full(error):
        return "failed", f"{disk.FULL}: {text}"
    if left_alone(error):
        return "failed", f"{GONE}: {text}"
    return "failed", f"{type(error).__name__}: {text}"


GONE = "another process of the stage is gone"


def left_alone(error: BaseException) -> bool:
    """Whether `error` only follows from the end of another process: gloo's, NCCL's and the store's own words."""
    words = ("by peer", "Broken pipe", "remote process", "likely closed")
    return isinstance(error, RuntimeError) and any(said in str(error) for said in words)


class Throttled:
    """Progress to the parent, at most a few times a second, so that telling costs nothing.

    Where something else begins, what was ``measured`` before it goes along.
    """

    def __init__(self, connection: Connection, every: float = 0.2) -> None:
        self.measured: dict[str, Any] = {}
        self._connection = connection
        self._every = every
        self._next = 0.0
        self._what = ""

    def keep(self, measured: dict[str, Any]) -> None:
        """Send what was measured so far."""
        self._connection.send(("kept", measured))

    def __call__(self, what: str, done: int, of: int, seen: Mapping[str, float] = UNSEEN) -> None:
        """Send it, or let it go."""
        if what != self._what:
            self._what = what
            self.keep(self.measured)
        now = time.monotonic()
        if now >= self._next or done == of:
            self._next = now + self._every
            self._connection.send(("progress", what, done, of, dict(seen)))


def follow(parent: int) -> None:
    """Die with the process `parent`, which dies with the command: ``kill -9`` of the command leaves nothing behind.

    And where memory runs out, die first: what the kernel would choose by size may be the command, or another program.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
