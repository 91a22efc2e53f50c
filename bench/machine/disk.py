"""Disks that are full, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = "the disk is full"


class Full(Exception):
    """A run ended early: the disk is full. What was recorded is safe."""


_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
)  # as libraries in other languages pass it on


def full(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised from or while dealing with, says that the disk took no more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _ERRNOS:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which shall be `folder` once the block has ended; nothing is left of it after an error.

    Raises:
        OSError: `folder` is there and not empty, or cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    half.mkdir()
    try:
        yield half
        half.replace(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


@contextlib.contextmanager
def atomic(file: Path) -> Iterator[Path]:
    """Where to write what shall be `file` once the block has ended; nothing is left of it after an error."""
    half = file.with_name(f"{file.name}.{os.getpid()}.part")  # two processes may write one report at once
    try:
        yield half
        half.replace(file)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(file)
        with contextlib.suppress(OSError):
            half.unlink()
        raise
