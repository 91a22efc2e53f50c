"""``methodbench site``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.say import say


def site_(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders, in any order.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the site is written.")] = Path("site"),
) -> None:
    """Write an index of results folders with their reports, as files for any web host. It has histories where a suite ran more
    than once, and performance profiles where the same recipes ran on several tasks."""
    from reports.site import build

    index, *others = build(folders, out)
    say(f"wrote {index}, with {len(others)} report{'' if len(others) == 1 else 's'}")
