"""``methodbench history``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.say import say

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINES = 20
"""Of more that say why a value is missing, or what changed, nobody reads the rest."""


class Shape(StrEnum):
    """How a history is printed."""

    text = "text"
    json = "json"


def history_(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders, in any order.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="This metric instead of those of the report's short table.")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipes whose names match this pattern.")] = None,
    format: Annotated[Shape, typer.Option("--format")] = Shape.text,
) -> None:
    """Show metrics over results folders, such as one of each commit, and where they changed. This is advice."""
    from bench.gate.history import FEWEST, RATE, history

    found = history(folders, metric or [], recipe)
    if format is Shape.json:
        import json
        from dataclasses import asdict

        print(json.dumps(asdict(found), indent=1, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table

    from reports import courses

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("recipe", "metric", "values", "first", "last"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "values" else "left")
    table.add_column("course", no_wrap=True)
    for course in found.courses:
        values = [point.value for point in course.points if point.value is not None]
        table.add_row(course.recipe, course.title, f"{len(values)}", *courses.ends(course), courses.bars(course))
    Console(highlight=False, markup=False).print(table)
    changes = [courses.change(course, change) for course in found.courses for change in course.changes]
    for line in changes:
        say(line)
    few = sum(bool(course.reason) for course in found.courses)
    if few:
        say(f"No change point is looked for in fewer than {FEWEST} values, as {few} of {len(found.courses)} rows have.")
    if few < len(found.courses):
        said = "" if changes else "No change point was found. "
        say(f"{said}This is advice: of 100 rows without a change, {100 * RATE:.0f} at most shows one, on average.")
    missing: dict[tuple[str, str, str], list[str]] = {}
    for course in found.courses:
        for point in course.points:
            if point.value is None:
                missing.setdefault((course.recipe, point.folder, point.reason), []).append(course.title)
    _some([f"{who} has no {', '.join(what)} in {folder}: {why}" for (who, folder, why), what in missing.items()])
    _some(found.notes)


def _some(lines: Sequence[str]) -> None:
    for line in lines[:_LINES]:
        say(f"note  {line}")
    if len(lines) > _LINES:
        say(f"note  and {len(lines) - _LINES} more; --format json has all")
