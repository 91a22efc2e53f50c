"""Text to terminals, pipes and logs: nothing is lost because one of them cannot take it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path


class _Unfailing(io.FileIO):
    """A file that lets go of what it cannot write. ``error`` is the first reason why."""

    error: OSError | None = None

    def write(self, data: object) -> int:
        """All of `data`, as far as who asks can tell."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self.error is None:
            try:
                done = 0
                while done < len(view):
                    done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)


def unfailing(log: Path) -> io.TextIOWrapper:
    """`log`, to append lines to. What it cannot take, as on a full disk, is let go."""
    try:
        raw = _Unfailing(log, "a")
    except OSError:
        raw = _Unfailing(os.devnull, "a")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True)


def open_streams() -> None:
    """Make standard output and error such that no print raises: not where nobody reads any more, the disk is full, the
    encoding lacks a sign, or they were closed from the start. :func:`unwritten` says whether something was lost."""
    with contextlib.suppress(OSError):
        # Else the next file that is opened would be taken for standard output.
        while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(free)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, io.TextIOWrapper):
            raw = _Unfailing(number, "w", closefd=False)
            encoding = "utf-8" if stream is None else stream.encoding
            text = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding, "replace", line_buffering=raw.isatty() or number == 2
            )
            setattr(sys, name, text)


def unwritten() -> OSError | None:
    """Why standard output lost something; None where it did not, or where who reads it had seen enough."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, _Unfailing) else None
    return None if isinstance(error, BrokenPipeError) else error


_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, movements
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links, clipboards
    r"|\x1b[ -/]*[0-~]?"
)
_OTHERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
    r"\u202a-\u202e\u2066-\u2069]"  # which turn the direction of all that follows
)


def visible(text: str) -> str:
    """`text` as a terminal may show it: without sequences that command it, one sign for what else is no character."""
    if text.isprintable():
        return text
    return _OTHERS.sub("\ufffd", _SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))
