"""The executor of this machine: each job in a process forked from a server that holds the heavy imports.

So isolation costs hundredths of a second and not the seconds of importing torch and transformers again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.util import Finalize, get_temp_dir
from pathlib import Path
from typing import Any

from bench.execute import worker
from bench.execute.base import Outcome
from bench.execute.imports import NOTHING, Imports
from bench.machine import hub
from bench.record.schema import Status
from bench.stage.job import Job, Progress

LOG_TAIL = 10_000
"""Characters of a failed job's output that its record keeps."""


class ForkServer:
    """Runs each job in a process of its own. `held` is what the jobs will need, so that the server has it already."""

    def __init__(self, held: Imports = NOTHING) -> None:
        self._context = prepared(held)
        self._starting = threading.Lock()
        self._running: set[ForkServerProcess] = set()
        self._accompanied: set[ForkServerProcess] = set()

    def run(self, job: Job, timeout: float | None, progress: Progress) -> Outcome:
        """Run `job` in a process of its own and wait without polling."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        if job.temporary is not None:
            job.temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=worker.main, args=(theirs, job))
        killed_before = kernel_kills()
        with self._starting, _without_main(), _uninterrupted():
            if job.temporary is not None:
                _meet_in(job.temporary.parent)
            process.start()
            self._running.add(process)
            if len(self._running) > 1:
                self._accompanied |= self._running
        theirs.close()
        try:
            kept: dict[str, Any] = {}
            answer = _answer(process, ours, timeout, progress, kept)
            process.join(30)
        finally:
            # On Ctrl-C too: nothing of the job outlives this call.
            self._running.discard(process)
            beside = process in self._accompanied
            self._accompanied.discard(process)
            if process.is_alive():
                process.kill()
                process.join()
            ours.close()
            if job.temporary is not None:
                shutil.rmtree(job.temporary, ignore_errors=True)
        if answer is None:
            said = f"stopped after {timeout:g} s" if timeout else "stopped"
            return Outcome("timeout", said, tail(job.log), kept, beside)
        if isinstance(answer, tuple):
            status, reason, measured = answer
            return Outcome(status, reason, "" if status == "ok" else tail(job.log), measured, beside)
        status, reason = died(process.exitcode, killed_before)
        return Outcome(status, reason, tail(job.log), kept, beside)

    def stop(self) -> None:
        """Kill the processes of the jobs that run."""
        for process in list(self._running):
            process.kill()

    def close(self) -> None:
        """The server ends by itself with this process."""


def prepared(held: Imports = NOTHING) -> ForkServerContext:
    """Where to make processes that have torch, transformers and `held` imported already."""
    # Read by bench.execute.preload; Python 3.11 does not hand the path on by itself.
    os.environ["METHODBENCH_PATH"] = json.dumps(sys.path)
    # A module of the user's folder must not shadow ours: no working directory on
    # the path (`python -P`).
    os.environ["METHODBENCH_IMPORTS"] = held.spell()
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.update(hub.for_stages(os.environ))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execute.preload"])
    return context


def tail(log: Path) -> str:
    """The end of what a job printed."""
    with contextlib.suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    return ""


_DEAD = "dead"


def _answer(
    process: ForkServerProcess,
    connection: Connection,
    timeout: float | None,
    progress: Progress,
    kept: dict[str, Any],
) -> tuple[Status, str, dict[str, Any]] | str | None:
    """The job's answer; ``_DEAD`` if it died without one; None if its time ran out. `kept` is what it had measured."""
    end = time.monotonic() + timeout if timeout else None
    while True:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            process.kill()
            return None
        # A day at a time: the system counts such a wait in milliseconds, of which there are 25 days.
        ready = wait([connection, process.sentinel], None if left is None else min(86_400.0, left))
        if connection in ready or connection.poll():
            try:
                message = connection.recv()
            except (EOFError, OSError):
                process.join(5)
                return _DEAD
            if message[0] == "done":
                return message[1], message[2], message[3]
            if message[0] == "kept":
                kept.update(message[1])
            else:
                progress(*message[1:])
        elif process.sentinel in ready:
            return _DEAD


def died(exitcode: int | None, killed_before: int) -> tuple[Status, str]:
    """Status and reason of a process that ended without a word; `killed_before` is what `kernel_kills` gave at its start."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if -exitcode == signal.SIGKILL and kernel_kills() > killed_before:
            return "oom", "the kernel killed the process: the machine's memory ran out"
        return "failed", f"the process was killed by {name}"
    return "failed", f"the process ended with status {exitcode} and no result"


def kernel_kills() -> int:
    """How often the kernel has killed for memory in this control group, or on this machine."""
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with contextlib.suppress(OSError, ValueError):
            for line in Path(file).read_text().splitlines():
                name, value = line.split()
                if name == key:
                    return int(value)
    return 0


_LONGEST = 70
"""Bytes of a folder's name in which a socket's is short enough for every system."""


@functools.cache
def _meet_in(folder: Path) -> None:
    """Have multiprocessing keep the server's socket in `folder`, where the next run sweeps what a killed one left.

    Where that cannot hold sockets, they stay in the system's folder for temporary files.
    """
    probe = folder.absolute() / "socket"
    if len(os.fsencode(folder.absolute())) > _LONGEST:
        return
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(str(probe))
        probe.unlink()
    except OSError:
        return
    before, tempfile.tempdir = tempfile.tempdir, str(folder.absolute())
    try:
        get_temp_dir()  # which it stays with
    finally:
        tempfile.tempdir = before
    Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-200)  # after multiprocessing's own


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """What begins here is deaf to Ctrl-C, which reaches the whole group: this process says what becomes of the others."""
    resource_tracker.ensure_running()  # which begins with the server, and would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from importing the command's own script again in every child: jobs need nothing of it."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)
