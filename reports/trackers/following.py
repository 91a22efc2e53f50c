"""Send cells while a run goes on, from a process of its own.

Trackers wait for networks, start threads and processes, and catch signals. None of it may hold up, disturb or end a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from bench.machine.output import unfailing
from bench.metrics.units import counted
from bench.record.errors import RecordError
from reports.trackers import check
from reports.trackers.sending import Sender, Told, lacking
from reports.trackers.sent import Sent

START, STAGE, END = 60.0, 10.0, 120.0
"""Seconds that a run waits at most for trackers: before its first stage, after each stage, and after the last of all."""

LOG = "trackers.log"
"""What trackers print, in the folder ``logs`` of the results."""


@contextlib.contextmanager
def following(folder: Path, names: Collection[str]) -> Iterator[Following]:
    """What follows a run with the results `folder` and sends its cells to the trackers called `names`, while the block lasts.

    With the names alone, this is what :func:`bench.execute.suites.run` takes as ``follow``.

    Raises:
        MachineError: there is no such tracker, or it is not installed. RecordError: what was sent cannot be read, or another
            process is sending.
    """
    check(names)
    names = tuple(dict.fromkeys(names))
    context = multiprocessing.get_context("spawn")
    with _alone(folder):
        Sent(folder)
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(folder, names, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            yield Following(folder, names, process, ours)
        finally:
            process.kill()
            process.join()
            ours.close()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process send from `folder` meanwhile; the kernel frees it when this one ends, however that was."""
    with (folder / ".tracked.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(f"{folder}: another process is sending from it; wait until that ends") from None
        yield


class Following:
    """Whenever a stage has ended, the process is told to send the cells that ended with it.

    They are sent between stages, so that no timing sees it, as long as that takes no longer than :data:`STAGE`. What takes
    longer goes on beside the next stages.
    """

    def __init__(self, folder: Path, names: Sequence[str], process: BaseProcess, told: Connection) -> None:
        """Wait until the `process`, which answers what it is `told`, has imported what it needs."""
        self._folder, self._names = folder, names
        self._process, self._told = process, told
        self._asked, self._lost = True, ""
        self._answer: list[Told] = []
        self._idle(START)

    def ended(self, node: str) -> None:
        """The stage `node` has its record."""
        if self._idle(0.0):
            self._ask(node)
            self._idle(STAGE)

    def done(self, tell: Callable[[str], None]) -> list[str]:
        """The run is over: send all that is left, `tell` where it is, and return what was not sent, a sentence for each tracker."""
        try:
            told = self.send(END)
        except (RecordError, OSError) as error:
            return [f"{', '.join(self._names)}: it is not known what was sent: {error}"]
        for each in told:
            if not each.lacks:
                tell(f"{each.tracker}: {counted(each.sent + each.had, 'cell')} sent; {each.place}")
        return problems(self._folder, told)

    def send(self, seconds: float | None = None) -> list[Told]:
        """Send all that was not sent, and say how it went. It takes `seconds` at most; None: as long as it takes.

        Raises:
            RecordError: the records cannot be read.
        """
        if self._idle(seconds):
            self._ask(None)
            if self._idle(seconds):
                return self._answer
        why = self._lost or f"it took longer than {seconds:.0f} s"
        return [Told(name, 0, 0, number, why=why) for name, number in lacking(self._folder, self._names).items()]

    def _ask(self, node: str | None) -> None:
        self._asked = True
        with contextlib.suppress(OSError):  # it has ended, and waiting for the answer says so
            self._told.send(node)

    def _idle(self, seconds: float | None) -> bool:
        """Whether the process has answered all that it was asked, after `seconds` at most."""
        if self._asked and not self._lost:
            try:
                if self._told.poll(seconds):
                    self._answer, self._asked = self._told.recv(), False
            except (EOFError, OSError):
                self._process.join(1.0)
                log = self._folder / "logs" / LOG
                self._lost = f"the process that sends them ended with {self._process.exitcode}; {log} says why"
        return not self._asked and not self._lost


def problems(folder: Path, told: Collection[Told]) -> list[str]:
    """What was not sent, why, and what sends it; nothing where all was."""
    return [
        f"{each.tracker}: {counted(each.lacks, 'cell')} not sent: {each.why}; "
        f"`methodbench track {folder} --to {each.tracker}` sends them"
        for each in told
        if each.lacks
    ]


def _serve(folder: Path, names: Collection[str], told: Connection) -> None:
    """Answer each id of a stage with what became of its cells; None asks for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends this process
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    log = unfailing(folder / "logs" / LOG)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    sender = Sender(folder, names)
    sender.load()
    told.send([])
    with contextlib.suppress(EOFError):  # the run has ended
        while True:
            told.send(sender.send(told.recv()))
