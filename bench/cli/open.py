"""``methodbench open``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.say import fail, say


def open_(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Open a results folder's report in the browser; print its path where there is none."""
    import webbrowser

    file = folder.resolve() / "report.html"
    if not file.is_file():
        fail(f"error: {file}: no such file; `methodbench report {folder}` writes it")
    if not webbrowser.open(file.as_uri()):
        say(str(file))
