"""A method's fields: its hyperparameters, checked, and written as a recipe spells them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import typing
from typing import TYPE_CHECKING, Any, Literal

from bench.recipe.errors import RecipeError

if TYPE_CHECKING:
    from bench.recipe.method import Method


@functools.cache
def fields_of(cls: type[Method]) -> tuple[dataclasses.Field[Any], ...]:
    """A method's hyperparameters, in order; last those that are given by name alone."""
    found = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return tuple(sorted(found, key=lambda field: field.kw_only))


@functools.cache
def _checker(cls: type[Method], name: str) -> Any:
    import pydantic

    hint = typing.get_type_hints(cls, include_extras=True)[name]
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(arbitrary_types_allowed=True, strict=True))


def schema(cls: type[Method]) -> list[dict[str, Any]]:
    """A method's fields, each with ``name``, ``type`` and ``default`` (absent where one must be given)."""
    from bench.recipe import method

    hints = typing.get_type_hints(cls, include_extras=True)
    rows = []
    for field in fields_of(cls):
        row: dict[str, Any] = {"name": field.name, "type": _type_name(hints[field.name])}
        if field.default is not dataclasses.MISSING:
            row["default"] = str(field.default) if isinstance(field.default, method.Method) else field.default
        rows.append(row)
    return rows


def _type_name(hint: Any) -> str:
    from bench.recipe import method

    if typing.get_origin(hint) is typing.Annotated:
        base, *bounds = typing.get_args(hint)
        if words := [bound for bound in bounds if isinstance(bound, str)]:
            return "; ".join(words)
        return " ".join([_type_name(base), *(_bound(bound) for bound in bounds)])
    if typing.get_origin(hint) is Literal:
        return " | ".join(repr(value) for value in typing.get_args(hint))
    if isinstance(hint, type) and not typing.get_args(hint):
        return (
            "None"
            if hint is type(None)
            else hint.__name__.lower()
            if issubclass(hint, method.Method)
            else hint.__name__
        )
    return str(hint).replace("typing.", "")


def _bound(bound: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[key]} {getattr(bound, key)}" for key in signs if getattr(bound, key, None) is not None)


def check(cls: type[Method], name: str, value: Any) -> Any:
    """`value` as argument `name` of `cls`: lists become tuples, whole numbers floats where those are wanted.

    Raises:
        RecipeError: it is of the wrong type or out of range.
    """
    import pydantic

    if isinstance(value, list):
        value = tuple(value)
    try:
        checked = _checker(cls, name).validate_python(value)
    except pydantic.ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise RecipeError(f"{cls.name}: {name}: {wrong['msg'].lower()}, found {value!r}", argument=name) from None
    if isinstance(checked, float) and not math.isfinite(checked):
        raise RecipeError(f"{cls.name}: {name}: must be finite, found {value!r}", argument=name)
    return checked


def literal(value: Any, *, defaults: bool) -> str:
    """`value` as recipe text; with `defaults`, a method in it with all its arguments."""
    from bench.recipe import method

    if isinstance(value, method.Method):
        return value.spell(defaults=defaults)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(literal(item, defaults=defaults) for item in value)}]"
    if isinstance(value, dict):
        items = (f"{literal(k, defaults=defaults)}: {literal(v, defaults=defaults)}" for k, v in sorted(value.items()))
        return f"{{{', '.join(items)}}}"
    return repr(value)
