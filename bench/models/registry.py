"""Models by what a suite calls them."""

from __future__ import annotations

import functools
from pathlib import Path

from bench.machine.paths import PathError, find
from bench.models.base import Model, ModelError
from bench.recipe.errors import nearest
from bench.recipe.registry import by_name


@functools.cache
def models() -> dict[str, type[Model]]:
    """Every registered model, by name."""
    return by_name("methodbench.models", Model)


def open_model(spec: str, suite_folder: Path, *, allow_remote_code: bool = False) -> Model:
    """The model that a suite names: a registered one, else a directory seen from `suite_folder`, the suite's folder, else
    one of the hub's, whose configuration and tokenizer are fetched where they are not in the cache.

    Raises:
        ModelError: it is none of these.
    """
    from bench.models.sources import adapter, hub, random_weights
    from bench.models.sources.directory import Directory

    known = models()
    if spec in known:
        return known[spec]()
    if spec.startswith(random_weights.PREFIX):
        return random_weights.opened(spec, suite_folder)
    try:
        path = find(spec, suite_folder)
    except PathError as error:
        raise ModelError(f"model: {error}") from None
    if path.is_dir():
        if adapter.alone(path):
            return adapter.opened(path, path.resolve().name, suite_folder, allow_remote_code=allow_remote_code)
        return Directory(path, allow_remote_code=allow_remote_code)
    # `runs/bert` is a folder that is not there, where there is a folder `runs`; `runs/bert@main` is the hub's.
    if hub.NAME.fullmatch(spec) and ("@" in spec or not path.parent.is_dir()):
        found = hub.find(spec)
        if adapter.alone(found.folder):
            return adapter.opened(found.folder, spec, suite_folder, found, allow_remote_code=allow_remote_code)
        return hub.Hub(spec, found, allow_remote_code=allow_remote_code)
    raise ModelError(
        f"`{spec}` is neither a registered model, nor a directory ({path}), nor a name on the hub such as org/name or "
        f"org/name@revision{nearest(spec, known)}"
    )
