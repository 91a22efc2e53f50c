"""What can be wrong with a results folder, in words."""

from __future__ import annotations

import errno

from bench.machine import disk


class RecordError(Exception):
    """Records cannot be written or read. The message names the place, what is wrong and how to mend it."""


class Unwritten(RecordError):
    """A record could not be written. Those before it are safe."""


_REASONS = {
    errno.ENOSPC: (disk.FULL, "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space"),
    errno.EFBIG: ("the file has reached the limit on file sizes", "raise it (`ulimit -f`)"),
    errno.EIO: ("the disk gave an error", "see to the disk"),
    errno.EACCES: ("permission denied", "get the right to it or choose another folder"),
    errno.EPERM: ("permission denied", "get the right to it or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EEXIST: ("a file of this name is in the way", "move it or choose another folder"),
    errno.ENOTDIR: ("a part of this path is a file", "move it or choose another folder"),
    errno.EISDIR: ("a folder of this name is in the way", "move it or choose another folder"),
    errno.ENOLCK: ("its file system cannot lock files", "choose a folder on a local disk"),
    errno.ENOTSUP: ("its file system cannot lock files", "choose a folder on a local disk"),
}


def explain(error: OSError) -> tuple[str, str]:
    """What is wrong, and how to mend it."""
    return _REASONS.get(error.errno or 0, (error.strerror or str(error), "choose another folder"))
