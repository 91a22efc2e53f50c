"""Models: registered ones, and local transformers directories."""

from __future__ import annotations

from pathlib import Path

from bench import registry
from bench.method import nearest
from bench.models.base import Model, ModelError
from bench.paths import PathError, find


def open_model(spec: str, base: Path) -> Model:
    """The model that a suite names: a registered one, else a directory seen from `base`, the suite's folder.

    Raises:
        ModelError: it is neither.
    """
    from bench.models.directory import Directory

    known = registry.models()
    if spec in known:
        return known[spec]()
    try:
        path = find(spec, base)
    except PathError as error:
        raise ModelError(f"model: {error}") from None
    if not path.is_dir():
        raise ModelError(f"`{spec}` is neither a registered model nor a directory ({path}){nearest(spec, known)}")
    return Directory(path)
