"""``methodbench show``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def show(
    name: Annotated[str, typer.Argument(help="A method, task, model or metric.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show a method: its arguments and defaults, what proves it, its paper and an example."""
    from bench.cli import catalogue

    page = catalogue.page(name)
    print(json.dumps(page, indent=2, ensure_ascii=False) if as_json else catalogue.text(page))
