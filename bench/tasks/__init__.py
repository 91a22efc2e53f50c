"""Tasks: registered ones, and one's own data from a suite's ``[task]`` table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import registry
from bench.method import nearest
from bench.tasks.base import Task, TaskError

if TYPE_CHECKING:
    from bench.suite import DataTable


def open_task(spec: str | DataTable, base: Path) -> Task:
    """The task that a suite names, with nothing read yet; `base` is where its files are: the suite's folder.

    Raises:
        TaskError: no task has that name.
    """
    if not isinstance(spec, str):
        from bench.tasks.classification import Table
        from bench.tasks.language_modelling import OwnText

        return Table(spec, base) if spec.kind == "classification" else OwnText(spec, base)
    known = registry.tasks()
    if spec not in known:
        own = ""
        if spec.endswith((".csv", ".jsonl", ".txt")):
            kind = "causal_lm" if spec.endswith(".txt") else "classification"
            own = f'; one\'s own file goes into a table: task = {{ kind = "{kind}", data = "{spec}" }}'
        raise TaskError(f"unknown task `{spec}`{own or nearest(spec, known)}")
    return known[spec]()
