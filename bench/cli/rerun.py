"""``methodbench rerun``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run import carry_out


def rerun_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name in its latest run.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its models in the folder, for methodbench export.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run all stages of one recipe of a folder's latest run again, with every seed, and write the report."""
    said = options.verbosity(quiet, verbose)
    from bench.execute.suites import rerun

    carry_out(lambda: rerun(folder, recipe, keep=keep, say=said), quiet=quiet)
