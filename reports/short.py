"""The table of at most seven columns that Markdown and LaTeX share: for each recipe its quality, and the ratios that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.compare.compare import Comparison
from bench.compare.rows import Change, Row
from bench.metrics.metric import Metric
from bench.metrics.units import show
from reports import words

COLUMNS = 7
_REASON = 200
"""Characters of a reason for which a table has room."""


def metrics(comparison: Comparison) -> list[Metric]:
    """What the columns after the recipe's name show: the primary quality first."""
    return comparison.mains[: COLUMNS - 1]


def cells(
    row: Row, metrics: Sequence[Metric], primary: Metric | None, verdict: Callable[[Change], str]
) -> Iterator[str]:
    """What stands in the columns of `metrics`: the `primary` quality as a figure, the others as ratios, each with its
    `verdict`; of the baseline figures alone."""
    for metric in metrics:
        figure, change = row.figures.get(metric.name), row.changes.get(metric.name)
        if figure is None:
            yield "–"
        else:
            shown = str(figure) if metric == primary else str(change or show(figure.value, metric.unit))
            mark = " ⚠" if figure.contended or (change and change.contended) else ""
            yield f"{shown} {verdict(change)}{mark}" if change else f"{shown}{mark}"


def ending(row: Row) -> str:
    """How a recipe ended for the seeds that did not end ok, and why; empty where there are none."""
    if row.ok:
        return ""
    reason = "; ".join(words.reasons(row)) or "no reason recorded"
    return f"{words.status(row)}: {reason if len(reason) <= _REASON else reason[:_REASON] + ' …'}"
