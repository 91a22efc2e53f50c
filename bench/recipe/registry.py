"""Methods, tasks, kinds of task and models by name, found through entry points.

Ours register the way anybody's do. An entry point's value names a class, a module of classes or a package of such
modules::

    [project.entry-points."methodbench.methods"]
    mine = "my_package.methods"
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from types import ModuleType
from typing import Literal, TypeVar

from bench.recipe.method import Method

T = TypeVar("T")


class RegistryError(Exception):
    """Two things are registered under one name, or an entry point does not load."""


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Every registered method, by name."""
    return by_name("methodbench.methods", Method)


def by_name(group: str, base: type[T], attribute: Literal["name", "kind"] = "name") -> dict[str, type[T]]:
    """The classes under `base` that the entry points of `group` register, by their `attribute`.

    In a module, a class is registered that says this attribute itself; what has a ``name`` must not be abstract.

    Raises:
        RegistryError: an entry point does not load, or two classes have one name.
    """
    found: dict[str, type[T]] = {}
    for point in entry_points(group=group):
        try:
            value = point.load()
            classes = list(_classes(value, base, attribute))
        except Exception as error:
            raise RegistryError(
                f"entry point `{point.name} = {point.value}` of {group} does not load: {error}"
            ) from error
        for cls in classes:
            name: str = getattr(cls, attribute)
            if found.setdefault(name, cls) is not cls:
                raise RegistryError(f"`{name}` is registered twice: {_where(found[name])} and {_where(cls)}")
    return dict(sorted(found.items()))


def _classes(value: object, base: type[T], attribute: str) -> Iterator[type[T]]:
    if inspect.isclass(value):
        if issubclass(value, base):
            yield value
        return
    if not isinstance(value, ModuleType):
        return
    for member in vars(value).values():
        # A class belongs to the module that defines it; one that is abstract or without a name is a base. Of a kind of
        # task, that is what is wanted.
        if (
            inspect.isclass(member)
            and issubclass(member, base)
            and member.__module__ == value.__name__
            and not (attribute == "name" and inspect.isabstract(member))
            and attribute in vars(member)
        ):
            yield member
    if hasattr(value, "__path__"):
        for info in pkgutil.iter_modules(value.__path__):
            if not info.name.startswith("_"):  # private: what methods share, torch and all
                yield from _classes(importlib.import_module(f"{value.__name__}.{info.name}"), base, attribute)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
