"""Models: registered ones, and local transformers directories."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from bench.machine.paths import PathError, find
from bench.models.base import Model, ModelError
from bench.recipe.errors import nearest
from bench.recipe.registry import by_name

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""``organisation/model``."""


@functools.cache
def models() -> dict[str, type[Model]]:
    """Every registered model, by name."""
    return by_name("methodbench.models", Model)


def open_model(spec: str, suite_folder: Path) -> Model:
    """The model that a suite names: a registered one, else a directory seen from `suite_folder`, the suite's folder.

    Raises:
        ModelError: it is neither.
    """
    from bench.models.sources.directory import Directory

    known = models()
    if spec in known:
        return known[spec]()
    try:
        path = find(spec, suite_folder)
    except PathError as error:
        raise ModelError(f"model: {error}") from None
    if not path.is_dir():
        if _HUB_NAME.fullmatch(spec) and not path.parent.is_dir():
            raise ModelError(
                f"`{spec}` looks like a name on a model hub, and models are read from directories alone; "
                f"download it where there is a network, as with `hf download {spec} --local-dir {path.name}`, and name that "
                "directory"
            )
        raise ModelError(f"`{spec}` is neither a registered model nor a directory ({path}){nearest(spec, known)}")
    return Directory(path)
