"""``methodbench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.say import fail


def compare_(
    base: Annotated[Path, typer.Argument(metavar="BASE_DIR", help="The results folder to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD_DIR", help="The results folder that may have become worse.")],
    suite: Annotated[
        str | None, typer.Option("--gate", metavar="SUITE", help="A suite whose [gate] says what may become worse.")
    ] = None,
    allow: options.Allow = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 after a regression, and with 3 where it could not be told.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as `gate.json` has it.")] = False,
) -> None:
    """Compare two results folders. This is advice: timings of other occasions raise false alarms."""
    from bench.gate import stored, targets
    from bench.gate.gate import GateError
    from reports.gate import text

    try:
        table = options.gate_table(targets.suite_file(suite) if suite else None, allow or [], None)
    except GateError as error:
        fail(f"error: {error}")
    verdict = stored.compare(base, head, table)
    if as_json:
        print(verdict.json())
    else:
        text.show(verdict)
    if strict:
        raise typer.Exit(verdict.status)
