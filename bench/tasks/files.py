"""Task files: a ``[task]`` table in a TOML file of its own. Those in suites/tasks/ come along, and go by their names."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.machine.paths import irregular
from bench.recipe.errors import nearest
from bench.tasks.base import TaskError


@functools.cache
def shipped() -> Mapping[str, Path]:
    """The task files that come along, by name, such as "glue/sst2": inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    folder = (here / "_suites" if (here / "_suites").is_dir() else here.parent / "suites") / "tasks"
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.toml"))}


def read(file: Path) -> dict[str, Any]:
    """What is in a task file, its ``[task]`` unchecked: ``summary`` and ``task``.

    Raises:
        TaskError: it cannot be read, is not TOML, or has other keys.
    """
    if what := irregular(file):
        raise TaskError(f"{file}: cannot be read: it is {what}")
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        known = [each.name for each in file.parent.glob("*.toml")]
        raise TaskError(f"{file}: no such file{nearest(file.name, known)}") from None
    except OSError as error:
        raise TaskError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{file}: not TOML: {error}") from None
    for key in found.keys() - {"summary", "task"}:
        raise TaskError(f"{file}: {key}: unknown key; a task file has a [task] table and a `summary`")
    if not isinstance(found.get("task"), dict):
        raise TaskError(
            f'{file}: task: this table is missing; begin it with [task] and kind = "classification" or another'
        )
    return found


def explain(file: Path, error: ValidationError) -> str:
    """What is wrong with the table in `file`, a line each."""
    return "\n".join(
        f"{file}: {'.'.join(['task', *map(str, wrong['loc'])])}: {wrong['msg'].removeprefix('Value error, ')}"
        for wrong in error.errors(include_url=False)
    )
