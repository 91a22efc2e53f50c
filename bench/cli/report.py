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
    """What a report can be. The last five are files, for they are no text, or many."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"
    tex = "tex"
    table = "table"
    parquet = "parquet"
    svg = "svg"
    pdf = "pdf"
    png = "png"
    peft = "peft"


class Width(StrEnum):
    """Inches of a paper's column, and of two."""

    one = "3.3"
    two = "6.9"


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Print this one; parquet, and svg, pdf and png of each figure, are written into the folder. "
            "Without it, html and md are. peft: a file for each cell, as PEFT's method comparison has them, in the folder peft.",
        ),
    ] = None,
    width: Annotated[Width, typer.Option("--width", help="How wide a figure is, in inches.")] = Width.two,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="Add what others measured: a result of PEFT's method comparison, of lm-eval, or of optimum-benchmark.",
        ),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Write report.html without Vega: smaller, and figures stay as they are.")
    ] = False,
) -> None:
    """Report on a results folder: print it in one format, or write report.html and report.md into it."""
    from reports import FILES, WITH_OTHERS, exchange, pieces, write

    if others and format is not None and format.value not in WITH_OTHERS:
        raise typer.BadParameter(
            f"--format {format} has no room for it; {', '.join(WITH_OTHERS)} have", param_hint="--with"
        )
    if static and format not in (None, Format.html):
        raise typer.BadParameter(f"--format {format} has no static form; html has", param_hint="--static")
    if format is Format.peft:
        for path in exchange.peft.write(folder):
            say(f"wrote {path}")
        return
    foreign = exchange.read(others or ())
    if format is not None and format.value not in FILES and not static:
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # as what it says of itself, and as the files are
        sys.stdout.writelines(pieces(folder, format.value, foreign))
        return
    formats = [format.value] if format and not static else ["html"] if static else ["html", "md"]
    for path in write(folder, formats, folder, inches=float(width.value), static=static, foreign=foreign):
        say(f"wrote {path}")
