"""A comparison in the terminal, readable at 80 columns."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.compare.compare import Comparison
from bench.compare.rows import Change, Row
from bench.metrics.metric import Metric
from reports import sentences, tuning, words

WIDTH = 80
_ROWS, _COMPARISONS = 200, 30
"""Of more, nobody reads the table in a terminal."""


class Terminal:
    """The terminal, in colour where it has some. What it is given is printed when it is asked to."""

    def __init__(self) -> None:
        self._shown: list[RenderableType] = []
        self._hidden = 0

    def add(self, comparison: Comparison) -> str:
        """No text."""
        if len(self._shown) < _COMPARISONS:
            self._shown.append(renderable(comparison))
        else:
            self._hidden += 1
        return ""

    def end(self) -> str:
        """No text."""
        return ""

    def print(self) -> None:
        """Print the comparisons."""
        console = Console(highlight=False)
        for each in self._shown:
            console.print(each)
        if self._hidden:
            console.print(f"{self._hidden:,} more comparisons are in the records; `{words.ALL}` has all.")


_MARKS = {"better": ("✓", "green"), "worse": ("✗", "red"), "same": ("=", "dim"), "not settled": ("?", "yellow")}


class Page:
    """The comparisons as plain text of 80 columns."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._empty = not comparisons

    def add(self, comparison: Comparison) -> str:
        """Its table."""
        return _plain(renderable(comparison))

    def end(self) -> str:
        """That there is nothing, where there is nothing."""
        return _plain("Nothing is recorded here.") if self._empty else ""


def _plain(shown: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(shown)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def renderable(comparison: Comparison) -> RenderableType:
    """A comparison for a rich console: heading, answer, table, legend, and why recipes gave no result."""
    primary = comparison.primary
    # There are 80 columns: what training cost, or what compression did.
    ratios = [
        metric
        for metric in comparison.mains
        if metric != primary
        and _heading(metric, comparison)
        and (comparison.trained_once or metric.about != "compression")
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    table.add_column("recipe", overflow="fold", min_width=14, max_width=30)
    table.add_column("status", no_wrap=True)
    if primary is not None:
        table.add_column(primary.title.lower(), justify="right", no_wrap=True)
    for metric in ratios:
        table.add_column(_heading(metric, comparison), justify="right", no_wrap=True)
    shown = comparison.rows[:_ROWS]
    for row in shown:
        cells: list[RenderableType] = [Text(row.name), Text(row.status, style="" if row.ok else "red")]
        if primary is not None:
            cells.append(_quality(row, primary))
        cells += [_ratio(row, metric) for metric in ratios]
        table.add_row(*cells, style="bold" if row.is_baseline else "")

    parts: list[RenderableType] = [
        Text.assemble((comparison.title, "bold"), f"  {comparison.model} · {comparison.task}"),
        "",
        *(Text(sentence.replace("`", "")) for sentence in sentences.headline(comparison)[:3]),
        "",
        table,
        *(Text(said) for said in (words.references(comparison), tuning.said(comparison)) if said),
        "",
        Text(
            f"×: ratio to `{comparison.baseline}` (the first row). ✓ better  ✗ worse  = same  "
            f"? not settled  {words.verdicts(comparison)}"
            + ("  divergence, gain: from the model that it was made from" if comparison.gain in ratios else "")
            + ("  ⚠ taken while the machine was busy" if any(r.contended for r in comparison.rows) else ""),
            style="dim",
        ),
    ]
    if hidden := len(comparison.rows) - len(shown):
        parts.append(f"{hidden:,} more recipes are in the records; {escape(words.ALL)} has all.")
    for row in shown:
        if not row.ok:
            why = "; ".join(words.reasons(row)) or "no reason recorded"
            parts.append(f"[red]{escape(words.status(row))}[/] [bold]{escape(row.name)}[/]: {escape(why)}")
    parts += [Text(f"⚠ {warning.replace('`', '')}", style="yellow") for warning in sentences.warnings(comparison)]
    return Group(*parts, "")


def _heading(metric: Metric, comparison: Comparison) -> str:
    return "gain" if metric == comparison.gain else metric.summary.heading if metric.summary else ""


def _quality(row: Row, primary: Metric) -> Text:
    figure = row.figures.get(primary.name)
    if figure is None:
        return Text("–", style="dim")
    return Text(str(figure)) + _mark(row.changes.get(primary.name))


def _ratio(row: Row, metric: Metric) -> Text:
    figure, change = row.figures.get(metric.name), row.changes.get(metric.name)
    if figure is None:
        return Text("–", style="dim")
    if row.is_baseline:
        return Text("1×  ")
    if change is None:  # what the baseline has no figure of
        return Text(f"{str(figure).removesuffix(' nats')}{'⚠' if figure.contended else ''}")
    return Text(f"{change}{'⚠' if change.contended else ''}") + _mark(change)


def _mark(change: Change | None) -> Text:
    sign, style = _MARKS[change.verdict] if change else (" ", "")
    return Text(f" {sign}", style=style)
