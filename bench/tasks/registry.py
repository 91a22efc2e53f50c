"""Tasks: registered ones, and one's own data from a suite's ``[task]`` table, which a registered kind of task reads."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from bench.machine.paths import PathError, find
from bench.recipe.errors import nearest
from bench.recipe.registry import by_name
from bench.tasks import files
from bench.tasks.base import Task, TaskError
from bench.tasks.table import DataTable


@functools.cache
def tasks() -> dict[str, type[Task]]:
    """Every registered task, by name."""
    return by_name("methodbench.tasks", Task)


@functools.cache
def kinds() -> dict[str, type[Task]]:
    """Every registered kind of task, by name: the class that all its tasks are under."""
    return by_name("methodbench.task_kinds", Task, "kind")


def open_task(spec: str | DataTable, suite_folder: Path) -> Task:
    """The task that a suite names, with nothing read yet; `suite_folder` is where its files are: the suite's folder.

    A name is a registered task's, a task file's that comes along, or a task file's path that ends in .toml.

    Raises:
        TaskError: no task has that name, the task file is wrong, or the table's file is on no path that there can be.
    """
    if not isinstance(spec, str):
        return kinds()[spec.kind].from_table(spec, suite_folder)
    if spec in tasks():
        return tasks()[spec]()
    if spec in files.shipped():
        return of_file(files.shipped()[spec], spec)
    if spec.endswith(".toml"):
        try:
            file = find(spec, suite_folder)
        except PathError as error:
            raise TaskError(f"task: {error}") from None
        return of_file(file, file.stem)
    hint = _as_table(spec) or nearest(spec, [*tasks(), *files.shipped()])
    raise TaskError(
        f"unknown task `{spec}`{hint or '; `methodbench list tasks` has the names, and a [task] table your own data'}"
    )


def of_file(file: Path, name: str) -> Task:
    """The task of a task file, which is called `name` unless its table has one; paths in it are seen from its folder.

    Raises:
        TaskError: the file is wrong.
    """
    table = {"name": name, **files.read(file)["task"]}
    try:
        checked = check_table(table)
    except ValidationError as error:
        raise TaskError(files.explain(file, error)) from None
    return kinds()[checked.kind].from_table(checked, file.parent)


def _as_table(file: str) -> str:
    """The hint that one's own file goes into a table, by the kinds that read such files; empty where none does."""
    suffix = Path(file).suffix
    # First those for which such a file is the usual one.
    reading = sorted(
        (kind.reads.index(suffix), name) for name, kind in kinds().items() if suffix and suffix in kind.reads
    )
    if not reading:
        return ""
    (_, usual), *others = reading
    other = f"; other kinds that read it: {', '.join(name for _, name in others)}" if others else ""
    return f'; one\'s own file goes into a table: task = {{ kind = "{usual}", data = "{file}" }}{other}'


def check_table(value: object) -> DataTable:
    """`value`, a suite's ``[task]`` table, by the table of its kind.

    Raises:
        ValidationError: the kind is unknown, or a key is missing, wrong, unknown or another kind's.
    """
    if isinstance(value, DataTable) or not isinstance(value, dict):
        return DataTable.model_validate(value)
    if wrong := list(_wrong(value)):
        raise ValidationError.from_exception_data("[task]", wrong)
    return kinds()[value["kind"]].table.model_validate(value)


def _wrong(table: dict[Any, Any]) -> Iterator[InitErrorDetails]:
    """The kind where it is unknown, else the keys that its table does not have."""
    if "kind" not in table:
        error = ValueError(f"this key is missing; known: {', '.join(kinds())}")
        yield {"type": "value_error", "loc": ("kind",), "input": table, "ctx": {"error": error}}
        return
    name = table["kind"]
    if not isinstance(name, str) or name not in kinds():
        known = difflib.get_close_matches(str(name), kinds(), n=len(kinds()), cutoff=0)  # the nearest first
        expected = " or ".join(f"'{each}'" for each in known)
        yield {"type": "literal_error", "loc": ("kind",), "input": name, "ctx": {"expected": expected}}
        return
    kind = kinds()[name]
    for key in table.keys() - kind.table.model_fields.keys():
        other = next((other for other, each in kinds().items() if key in each.table.model_fields), None)
        what = (
            f'{name} learns {kind.learns}; leave it out, or give kind = "{other}"'
            if other
            else f"unknown key{nearest(str(key), kind.table.model_fields)}"
        )
        yield {"type": "value_error", "loc": (key,), "input": table[key], "ctx": {"error": ValueError(what)}}


class _OfItsKind:
    """pydantic checks the table by that of its kind, and the JSON Schema has the tables of all."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(check_table)

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"oneOf": [_json_schema(name, kind) for name, kind in kinds().items()]}


def _json_schema(name: str, kind: type[Task]) -> dict[str, Any]:
    found = kind.table.model_json_schema()
    found["properties"]["kind"] = {"const": name, "description": f"learns {kind.learns}", "type": "string"}
    return {**found, "title": name}


OwnTable = Annotated[DataTable, _OfItsKind]
"""A field that holds a ``[task]`` table of any kind."""
