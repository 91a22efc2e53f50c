"""``methodbench list``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Listed(StrEnum):
    """What can be listed."""

    methods = "methods"
    tasks = "tasks"
    kinds = "kinds"
    models = "models"
    metrics = "metrics"
    suites = "suites"


def list_(
    what: Listed, as_json: Annotated[bool, typer.Option("--json", help="Objects with name, kind and more.")] = False
) -> None:
    """List the methods, tasks, kinds of task, models, metrics or suites there are."""
    from bench.cli import catalogue

    entries = catalogue.entries(what.value)
    if as_json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column()
    for entry in entries:
        table.add_row(entry["name"], entry["kind"], entry["summary"])
    Console().print(table)
