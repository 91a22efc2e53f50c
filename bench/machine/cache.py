"""A folder for what is slow to make and safe to lose.

``$METHODBENCH_CACHE``, else ``$XDG_CACHE_HOME/methodbench``, else ``~/.cache/methodbench``, else in the
system's folder for temporary files. Nothing depends
on it: a cache that cannot be read or written costs time and nothing else. Keys are content, so nothing in it
ever goes stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def folder() -> Path:
    """Where the cache is; it need not exist."""
    if own := os.environ.get("METHODBENCH_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "methodbench"
    try:
        return Path.home() / ".cache" / "methodbench"
    except RuntimeError:  # a user without a name or a home, as in some containers
        return Path(tempfile.gettempdir()) / f"methodbench-{os.getuid()}"


def write(name: str, content: bytes) -> None:
    """Keep `content` as `name`, whole or not at all. A failure to write is no error."""
    with contextlib.suppress(OSError), writing(name) as file:
        file.write_bytes(content)


@contextlib.contextmanager
def writing(name: str) -> Iterator[Path]:
    """A file to write, which is kept as `name` once it is whole: where the block raises, nothing is.

    Raises:
        OSError: the cache cannot be written.
    """
    kept = folder() / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    descriptor, path = tempfile.mkstemp(dir=kept.parent, prefix=f".{kept.name}.")
    os.close(descriptor)
    file = Path(path)
    try:
        yield file
        file.replace(kept)
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold `name` alone among all processes, after a wait asleep; the kernel frees it when its holder ends.

    Raises:
        OSError: the cache cannot be written.
    """
    file = folder() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; kept, so that a large file is read once.

    The key is what the file system says of the file. It holds the time of the last change to the inode, which
    no program can set, so that a file swapped for another of the same size and date is read again.

    Raises:
        OSError: the file cannot be read.
    """
    stat = file.stat()
    identity = repr((str(file.resolve()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    name = f"sha256/{hashlib.blake2b(identity.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        kept = (folder() / name).read_text(encoding="ascii")
        if is_sha256(kept):
            return kept
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    write(name, digest.encode("ascii"))
    return digest


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 in hexadecimal."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")
