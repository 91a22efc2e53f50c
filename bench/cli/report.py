"""``methodbench report``."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.say import say


class Format(StrEnum):
    """What a report can be."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format: Annotated[
        Format | None, typer.Option("--format", help="Print this one; html and md are written otherwise.")
    ] = None,
) -> None:
    """Report on a results folder: print it in one format, or write report.html and report.md into it."""
    from reports import pieces, write

    if format is not None:
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # as what it says of itself, and as the files are
        sys.stdout.writelines(pieces(folder, format.value))
        return
    for path in write(folder, ["html", "md"], folder):
        say(f"wrote {path}")
