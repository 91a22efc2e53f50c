"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path


class PathError(ValueError):
    """A path that names no file. The message says why, and not what it is for."""


def find(text: str, suite_folder: Path) -> Path:
    """The path that `text` is, ``~`` expanded; one that does not begin at the root begins at `suite_folder`.

    Raises:
        PathError: the system has no such path, or no such user.
    """
    if "\0" in text:
        raise PathError("a path holds no NUL character")
    try:
        return suite_folder / Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise PathError(f"{text}: this machine does not know whose home directory {user} is; write it out") from None


def irregular(file: Path) -> str:
    """Why `file` is not read: a pipe or a device may never end. Empty for all else, of which opening it says what is wrong."""
    return "" if file.is_file() or file.is_dir() or not file.exists() else "a pipe or a device, and not a file"
