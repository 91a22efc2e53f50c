"""The format of records, made of :mod:`bench.record.schema`: ``python -m bench.record.format > docs/record-format.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from bench.record.schema import KINDS, SCHEMA, AnyLine

_HEAD = f"""# The format of records

A results folder has one `records.jsonl`: a line of JSON for each thing that began or ended, written when it did and never
changed. This is schema {SCHEMA}. The page is made of `bench/record/schema.py`, by
`python -m bench.record.format > docs/record-format.md`; `methodbench schema record` prints the same as a JSON Schema.

- Each line has `schema`, the number of its format, and `kind`, which says what the line is:
  {", ".join(f"`{kind}` ([{of.__name__}](#{of.__name__.lower()}))" for kind, of in KINDS.items())}.
  A line of an older schema is read as the newest has it; one of a newer schema is refused with its number.
- Seconds, bytes and counts have no prefix. JSON has no NaN and no infinity: both are `null`.
- **Bold** fields are needed. Any other may be missing or `null`, which is the same. A field that is not named here is kept.
- `any` is written for readers, and nothing reads it. Where a field of another type holds something else, the line is
  damaged: it is left out with a warning that names the line and the field.
"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line, which ``kind`` tells apart."""
    schema = TypeAdapter[Any](AnyLine).json_schema()
    for kind, of in KINDS.items():
        line = schema["$defs"][of.__name__]
        line["properties"] = {
            "schema": {"const": SCHEMA, "description": "the number of the format"},
            "kind": {"const": kind, "description": "what the line is"},
            **line["properties"],
        }
        line["required"] = ["schema", "kind", *line["required"]]
    return schema


def page() -> str:
    """The format in words and tables: the kinds of line, then their parts."""
    parts = json_schema()["$defs"]
    lines = [of.__name__ for of in KINDS.values()]
    return "\n".join([_HEAD, *(_section(name, parts[name]) for name in [*lines, *sorted(parts.keys() - set(lines))])])


def _section(name: str, part: Mapping[str, Any]) -> str:
    needed = part.get("required", ())
    rows = [
        f"| {f'**`{field}`**' if field in needed else f'`{field}`'} | {_type(of)} | {of.get('description', '')} |"
        for field, of in part["properties"].items()
    ]
    return "\n".join(
        [f"## {name}", "", part["description"], "", "| field | type | what it is |", "| --- | --- | --- |", *rows, ""]
    )


def _type(of: Mapping[str, Any]) -> str:
    match of:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": list(choices)}:
            return " or ".join(_type(each) for each in choices if each != {"type": "null"})
        case {"const": value}:
            return f"`{value}`"
        case {"enum": list(values)}:
            return ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": Mapping() as inner}:
            return f"table of {_type(inner)}"
        case {"type": "object"}:
            return "table"
        case {"type": "integer" | "number" as kind}:
            what = "whole number" if kind == "integer" else "number"
            least = of.get("minimum")
            if "exclusiveMinimum" in of:
                return f"{what} above 0"
            return f"{what}, at least {least}" if least in (0, 1) else what
        case {"type": "string"}:
            return "text"
        case {"type": "boolean"}:
            return "`true` or `false`"
    return "any"


if __name__ == "__main__":
    sys.stdout.write(page())
