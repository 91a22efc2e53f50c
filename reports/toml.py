"""A suite's table as the text of a suite file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any


def written(table: Mapping[str, Any]) -> str:
    """`table` as TOML, which has no null: such keys are left out. Empty where `table` is."""
    return "\n".join(_lines(table, ())).strip() + "\n" if table else ""


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    for key, value in table.items():
        if key not in tables and value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, inner in tables.items():
        yield ""
        yield f"[{'.'.join(map(_key, (*path, key)))}]"
        yield from _lines(inner, (*path, key))


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None)
        return f"{{ {', '.join(inner)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value == value and abs(value) == float("inf"):
        return "inf" if value > 0 else "-inf"
    # Strings, numbers and booleans of JSON are TOML's too, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("NaN", "nan")
