"""A verdict in the terminal, readable at 80 columns."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.gate.verdict import Check, Ended, Verdict
from bench.metrics import units
from reports.gate import words

WIDTH = 80
_ROWS = 200
"""Of more, nobody reads the table in a terminal."""

_MARKS: dict[Ended, tuple[str, str]] = {
    "pass": ("✓", "green"),
    "regression": ("✗", "red"),
    "inconclusive": ("?", "yellow"),
    "skipped": ("–", "dim"),
}


def show(verdict: Verdict) -> None:
    """Print it, in colour where the terminal has some."""
    Console(highlight=False).print(renderable(verdict))


def plain(verdict: Verdict) -> str:
    """It as text of 80 columns."""
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(
        renderable(verdict)
    )
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def renderable(verdict: Verdict) -> RenderableType:
    """It for a rich console: the headline, the checks, why, where the time went, and what was compared."""
    shown = words.ordered(verdict)[:_ROWS]
    parts: list[RenderableType] = [_sentence(words.headline(verdict), f"bold {_MARKS[verdict.outcome][1]}"), ""]
    if shown:
        parts += [_table(verdict, shown), ""]
    if hidden := len(verdict.checks) - len(shown):
        parts.append(f"{words.count(hidden, 'more check')} in gate.json")
    for check in shown:
        if check.reason or check.outcome in ("inconclusive", "skipped"):
            parts.append(_sentence(_about(verdict, check), _MARKS[check.outcome][1]))
    for check in words.alarms(verdict):
        parts += [_sentence(f"Where the time of {words.name(check.recipe)} went:", "bold"), _grown(check)]
    parts += [_sentence(f"⚠ {doubt}", "yellow") for doubt in words.listed(verdict.doubts)]
    parts += [_sentence(note) for note in words.listed(verdict.notes)]
    for side in (verdict.base, verdict.head):
        about = ", ".join(f"{what} {value}" for what, value in words.side(side))
        parts.append(Text(f"{side.name}: {about}", style="dim", overflow="fold"))
    return Group(*parts)


def _about(verdict: Verdict, check: Check) -> str:
    """What the table has no room for."""
    if check.outcome in ("inconclusive", "skipped"):
        return words.sentence(verdict, check)
    return f"{words.name(check.recipe)}, {words.title(check)}: {words.reason(verdict, check)}."


def _table(verdict: Verdict, checks: list[Check]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for heading, width in (("recipe", 11), ("metric", 12), ("base", 9), ("head", 9), ("change", 14), ("allowed", 7)):
        table.add_column(heading, overflow="fold", max_width=width)
    table.add_column("verdict", no_wrap=True)
    for check in checks:
        ended = words.outcome(verdict, check)
        mark, style = _MARKS[ended]
        between, wall = words.between(check), words.wall(check)
        more = [f"({between})"] if between else []
        table.add_row(
            Text(words.printable(check.recipe)),
            Text(words.printable(check.title)),
            Text(units.show(check.base, check.unit)),
            Text(units.show(check.head, check.unit)),
            Text("\n".join([words.change(check) or "–", *more, *([wall] if wall else [])])),
            Text(words.printable(check.allowed)),
            Text(f"{mark} {ended}", style=style),
        )
    return table


def _grown(check: Check) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="bold")
    table.add_column("operator or phase", overflow="fold")
    for heading in ("base", "head", "grew by"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in words.grown(check):
        table.add_row(*map(Text, row))
    return table


def _sentence(text: str, style: str = "") -> Text:
    return Text(text.replace("`", ""), style=style, overflow="fold")
