"""Tasks: registered ones, and one's own data from a suite's ``[task]`` table."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from bench.recipe.errors import nearest
from bench.recipe.registry import by_name
from bench.tasks.base import Task, TaskError

if TYPE_CHECKING:
    from bench.tasks.table import DataTable


@functools.cache
def tasks() -> dict[str, type[Task]]:
    """Every registered task, by name."""
    return by_name("methodbench.tasks", Task)


def open_task(spec: str | DataTable, suite_folder: Path) -> Task:
    """The task that a suite names, with nothing read yet; `base` is where its files are: the suite's folder.

    Raises:
        TaskError: no task has that name.
    """
    if not isinstance(spec, str):
        from bench.tasks.kinds.classification import Table
        from bench.tasks.kinds.language_modelling import OwnText

        return Table(spec, suite_folder) if spec.kind == "classification" else OwnText(spec, suite_folder)
    known = tasks()
    if spec not in known:
        own = ""
        if spec.endswith((".csv", ".jsonl", ".txt")):
            kind = "causal_lm" if spec.endswith(".txt") else "classification"
            own = f'; one\'s own file goes into a table: task = {{ kind = "{kind}", data = "{spec}" }}'
        raise TaskError(f"unknown task `{spec}`{own or nearest(spec, known)}")
    return known[spec]()
