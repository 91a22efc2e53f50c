"""The records of a results folder: ``records.jsonl``, one JSON object a line. Nothing else holds a result.

A line is written when something has ended, whatever its end, and is on the disk when :meth:`Store.append`
returns. Values are raw (times, losses, predictions); metrics (:mod:`bench.metrics.metric`) derive figures when they are read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.machine import disk
from bench.machine.paths import irregular
from bench.record.errors import RecordError, Unwritten, explain
from bench.record.line import FILE, encoded
from bench.record.reading import Records
from bench.record.schema import KINDS, SCHEMA

RESERVE = 2**20
"""Bytes that a run keeps free for the record that says that the disk is full: many times the usual one."""


class Store:
    """A results folder that is written to. Several processes may append at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Make `folder`.

        Raises:
            RecordError: it cannot be written.
        """
        self.folder = Path(folder)
        self.file = self.folder / FILE
        with self.writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Found out now rather than after the first stage's hour.
            os.close(self._open_lock())
            if self.file.exists():
                if what := irregular(self.file):
                    raise RecordError(f"{self.file}: cannot be written: it is {what}; move it")
                os.close(os.open(self.file, os.O_RDWR | os.O_APPEND))

    @contextlib.contextmanager
    def writable(self) -> Iterator[None]:
        """For what is written in the folder before a run begins.

        Raises:
            RecordError: it cannot be written; Unwritten, where the disk is full.
        """
        try:
            yield
        except OSError as error:
            what, mend = explain(error)
            kind = Unwritten if disk.full(error) else RecordError
            raise kind(f"{error.filename or self.folder}: cannot be written: {what}; {mend}") from None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, and return when it is on the disk.

        Raises:
            Unwritten: it could not be written; the file is as it was.
        """
        assert record["kind"] in KINDS
        line = encoded({"schema": SCHEMA, **record})
        try:
            self._append(line)
        except OSError as error:
            if not disk.full(error) or not self._release():
                raise self._unwritten(error) from None
            try:
                self._append(line)
            except OSError as again:
                raise self._unwritten(again) from None

    def _append(self, line: bytes) -> None:
        fd = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # Released by closing, and by the kernel if this process is killed.
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = os.fstat(fd).st_size
            # A crash has cut the last line off: it is left as it is, and must not swallow this one.
            torn = before > 0 and os.pread(fd, 1, before - 1) != b"\n"
            try:
                _write(fd, b"\n" + line if torn else line)
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):  # then the next line begins with a newline
                    os.ftruncate(fd, before)
                raise
            if before == 0:
                with contextlib.suppress(OSError):  # some file systems have no such thing
                    _sync_directory(self.folder)
        finally:
            os.close(fd)

    def _reserve(self) -> None:
        """Keep some space for the record that says that the disk is full."""
        with contextlib.suppress(OSError), disk.atomic(self.folder / ".reserve") as file:
            file.write_bytes(os.urandom(RESERVE))  # which no file system makes smaller

    def _release(self) -> bool:
        """Whether there was a reserve."""
        try:
            (self.folder / ".reserve").unlink()
        except OSError:
            return False
        return True

    def read(self) -> Records:
        """What is recorded so far; nothing in a new folder.

        Raises:
            RecordError: a record is of a newer schema, or the file cannot be read.
        """
        records = Records(self.file)
        return records.read_on() if self.file.exists() else records

    @contextlib.contextmanager
    def lock(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder for one run, since two at once would disturb each other's clocks.

        Waits asleep while another run has it, after one call of `waiting` with a message; Ctrl-C ends the
        wait. The kernel frees the folder when its holder ends, however that was.

        Raises:
            RecordError: the folder cannot be locked.
        """
        try:
            fd = self._open_lock()
        except OSError as error:
            raise self._unlocked(error) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
                who = f"another run (process {holder})" if holder else "another run"
                waiting(f"{self.folder}: {who} is at work in this folder; waiting for it to end")
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError as error:
                raise self._unlocked(error) from None
            # Only for the message above: the lock is the kernel's, and a stale number does no harm.
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            self._reserve()
            try:
                yield
            finally:
                self._release()
                # Not left to closing alone: a forked child would hold the lock on.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        # Python opens files close-on-exec, so that no worker inherits the lock.
        return os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)

    def _unlocked(self, error: OSError) -> RecordError:
        what, mend = explain(error)
        return RecordError(f"{self.folder}: cannot be locked: {what}; {mend}")

    def _unwritten(self, error: OSError) -> Unwritten:
        try:
            with self.file.open("rb") as file:
                safe = sum(line.endswith(b"\n") for line in file)
        except OSError:
            safe = 0
        what, mend = explain(error)
        return Unwritten(
            f"{self.file}: {what}: a record could not be written. "
            f"{safe} record{' is' if safe == 1 else 's are'} safe; {mend} and run the same command again"
        )


def _write(fd: int, data: bytes) -> None:
    """All of `data`: in one write, unless the disk takes only a part; then the next says why."""
    while data:
        written = os.write(fd, data)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def _sync_directory(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
