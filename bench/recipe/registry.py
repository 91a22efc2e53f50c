"""Methods, tasks and models by name, found through entry points.

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
from typing import Any, TypeVar

from bench.recipe.errors import nearest
from bench.recipe.method import Method

T = TypeVar("T")


class RegistryError(Exception):
    """Two things are registered under one name, or an entry point does not load."""


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Every registered method, by name."""
    return by_name("methodbench.methods", Method)


class _ByAttribute:
    """The registered methods as attributes: ``methods.lora(r=8) >> methods.merge()``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return methods()[name]
        except KeyError:
            raise AttributeError(f"no method is called `{name}`{nearest(name, methods())}") from None

    def __dir__(self) -> list[str]:
        return list(methods())


by_attribute = _ByAttribute()


def by_name(group: str, base: type[T]) -> dict[str, type[T]]:
    """The classes under `base` that the entry points of `group` register, by name.

    Raises:
        RegistryError: an entry point does not load, or two classes have one name.
    """
    found: dict[str, type[T]] = {}
    for point in entry_points(group=group):
        try:
            value = point.load()
            classes = list(_classes(value, base))
        except Exception as error:
            raise RegistryError(
                f"entry point `{point.name} = {point.value}` of {group} does not load: {error}"
            ) from error
        for cls in classes:
            name: str = cls.name  # type: ignore[attr-defined]
            if found.setdefault(name, cls) is not cls:
                raise RegistryError(f"`{name}` is registered twice: {_where(found[name])} and {_where(cls)}")
    return dict(sorted(found.items()))


def _classes(value: object, base: type[T]) -> Iterator[type[T]]:
    if inspect.isclass(value):
        if issubclass(value, base):
            yield value
        return
    if not isinstance(value, ModuleType):
        return
    for member in vars(value).values():
        # A class belongs to the module that defines it; one that is abstract or without a name is a base.
        if (
            inspect.isclass(member)
            and issubclass(member, base)
            and member.__module__ == value.__name__
            and not inspect.isabstract(member)
            and "name" in vars(member)
        ):
            yield member
    if hasattr(value, "__path__"):
        for info in pkgutil.iter_modules(value.__path__):
            if not info.name.startswith("_"):  # private: what methods share, torch and all
                yield from _classes(importlib.import_module(f"{value.__name__}.{info.name}"), base)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
