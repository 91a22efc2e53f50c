"""Methods, tasks, kinds of task, models and metrics by name, found through entry points.

Ours register the way anybody's do. An entry point's value names a class (or a metric), a module of them or a package of
such modules::

    [project.entry-points."methodbench.methods"]
    mine = "my_package.methods"
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from bench.recipe.errors import nearest
from bench.recipe.method import Method, Transform

T = TypeVar("T")


class RegistryError(Exception):
    """Two things are registered under one name, or an entry point does not load."""


_METHODS = "methodbench.methods"


class Methods(Mapping[str, type[Method]]):
    """Every registered method, by name.

    One that is asked for by its name is imported alone, so that a command which needs a few does not import them all. For
    that, a method's module is called as the method is; where several modules are, or none is, all are imported.
    """

    @functools.cached_property
    def _all(self) -> dict[str, type[Method]]:
        return by_name(_METHODS, Method)

    @functools.cached_property
    def _modules(self) -> Mapping[str, Sequence[str]]:
        """The modules in the packages that are registered, by the last part of their names, none of them imported.

        Empty where an entry point is no package: its classes may have any names.
        """
        found: dict[str, list[str]] = {}
        for point in entry_points(group=_METHODS):
            spec = None if ":" in point.value else importlib.util.find_spec(point.value)
            if spec is None or spec.submodule_search_locations is None:
                return {}
            for folder in map(Path, spec.submodule_search_locations):
                for file in folder.rglob("*.py"):
                    parts = file.relative_to(folder).with_suffix("").parts
                    if not any(part.startswith("_") for part in parts):
                        found.setdefault(parts[-1], []).append(".".join((point.value, *parts)))
        return found

    def __getitem__(self, name: str) -> type[Method]:
        if "_all" not in vars(self) and len(modules := self._modules.get(name, ())) == 1:
            for named, _, cls in _classes(importlib.import_module(modules[0]), Method, "name"):
                if named == name:
                    return cls
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


@functools.cache
def methods() -> Mapping[str, type[Method]]:
    """Every registered method, by name."""
    return Methods()


def runtimes() -> dict[str, type[Transform]]:
    """The methods that make a runtime's files, by the format of these."""
    found = (method for method in methods().values() if issubclass(method, Transform))
    return {method.format: method for method in found if method.format}


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


def by_name(group: str, base: type[T], attribute: Literal["name", "kind"] = "name") -> dict[str, type[T]]:
    """The classes under `base` that the entry points of `group` register, by their `attribute`.

    In a module, a class is registered that says this attribute itself; what has a ``name`` must not be abstract.

    Raises:
        RegistryError: an entry point does not load, or two classes have one name.
    """
    found = _found(group, lambda value: _classes(value, base, attribute))
    return dict(sorted(found.items()))


def instances(group: str, base: type[T]) -> dict[str, T]:
    """The objects of `base` that the entry points of `group` register, by name, in the order in which they are defined.

    A module registers those that are its variables, and those in its variables that are lists or tuples.

    Raises:
        RegistryError: an entry point does not load, or two objects have one name.
    """
    return _found(group, lambda value: _objects(value, base))


def _found(group: str, members: Callable[[object], Iterator[tuple[str, str, T]]]) -> dict[str, T]:
    """What `members` finds in the value of each entry point, by name: it gives names, where each is defined, and each."""
    found: dict[str, T] = {}
    defined_in: dict[str, str] = {}
    for point in entry_points(group=group):
        try:
            defined = list(members(point.load()))
        except Exception as error:
            raise RegistryError(
                f"entry point `{point.name} = {point.value}` of {group} does not load: {error}"
            ) from error
        for name, where, each in defined:
            if found.setdefault(name, each) is not each:
                raise RegistryError(f"`{name}` is registered twice: {defined_in[name]} and {where or point.value}")
            defined_in.setdefault(name, where or point.value)
    return found


def _classes(value: object, base: type[T], attribute: str) -> Iterator[tuple[str, str, type[T]]]:
    if inspect.isclass(value) and issubclass(value, base):
        yield getattr(value, attribute), _where(value), value
    for module in _modules(value):
        for member in vars(module).values():
            # A class belongs to the module that defines it; one that is abstract or without a name is a base. Of a kind
            # of task, that is what is wanted.
            if (
                inspect.isclass(member)
                and issubclass(member, base)
                and member.__module__ == module.__name__
                and not (attribute == "name" and inspect.isabstract(member))
                and attribute in vars(member)
            ):
                yield getattr(member, attribute), _where(member), member


def _objects(value: object, base: type[T]) -> Iterator[tuple[str, str, T]]:
    if isinstance(value, base):
        yield value.name, "", value  # type: ignore[attr-defined]
    for module in _modules(value):
        for member in vars(module).values():
            for each in member if isinstance(member, list | tuple) else [member]:
                if isinstance(each, base):
                    yield each.name, module.__name__, each  # type: ignore[attr-defined]


def _modules(value: object) -> Iterator[ModuleType]:
    """A module and, of a package, all in it."""
    if not isinstance(value, ModuleType):
        return
    yield value
    if hasattr(value, "__path__"):
        for info in pkgutil.iter_modules(value.__path__):
            if not info.name.startswith("_"):  # private: what methods share, torch and all
                yield from _modules(importlib.import_module(f"{value.__name__}.{info.name}"))


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
