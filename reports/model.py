"""What the page's script works on: the figures of a comparison, and for each recipe as the baseline what is compared.

The script shows texts that are made here, so that a number is spelled in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from bench.metrics.units import prefixed
from reports import words
from reports.axes import axis_of, titled
from reports.drawing import short
from reports.forest import differences
from reports.tradeoff import standing

BASELINES = 30
"""With more recipes than this, the page has the suite's own baseline alone: what is compared grows with their square."""


def model(comparison: Comparison, others: Mapping[str, Comparison], answers: Mapping[str, str]) -> dict[str, Any]:
    """The page's data as JSON has it.

    `others` are the comparisons with other baselines, by these; `answers` is the HTML of the answer beside each baseline.

    ``recipes`` are in the order of the rows. ``figures`` has, for each metric, [value, low, high, text, busy, text without its interval] of each
    recipe, or
    null. ``references`` has the texts of the figures beside which quality is seen. ``views`` has for each baseline the standing of each recipe, the data of the forest plot, and for each metric
    [value, text, interval, verdict] of each recipe, or null.
    """
    import altair as alt

    rows, shown = comparison.rows, columns(comparison)
    return {
        "baseline": comparison.baseline,
        "primary": comparison.primary.name if comparison.primary else None,
        "recipes": [{"name": row.name, "recipe": row.recipe, "ok": row.ok, "status": row.status} for row in rows],
        "metrics": [_metric(metric, comparison, alt) for metric in shown],
        "figures": {metric.name: [_figure(row, metric) for row in rows] for metric in shown},
        "references": [
            {name: words.middle(figure) for name, figure in each.figures.items()} for each in comparison.references
        ],
        "views": {
            comparison.baseline: _view(comparison, rows, shown, answers[comparison.baseline]),
            **{name: _view(other, rows, comparison.mains, answers[name]) for name, other in others.items()},
        },
    }


def columns(comparison: Comparison) -> list[Metric]:
    """The metrics that the table can show: those of the short table first."""
    mains = comparison.mains
    return [*mains, *(metric for metric in comparison.metrics if metric not in mains)]


def others(comparison: Comparison) -> list[str]:
    """The recipes that a reader may compare with instead of the suite's own baseline."""
    primary, names = comparison.primary, {row.name for row in comparison.rows}
    if comparison.baseline not in names or len(names) > BASELINES:
        return []
    scored = [row.name for row in comparison.rows if row.ok and (primary is None or primary.name in row.figures)]
    return [name for name in scored if name != comparison.baseline]


def _metric(metric: Metric, comparison: Comparison, alt: Any) -> dict[str, Any]:
    figures = [row.figures[metric.name] for row in comparison.rows if row.ok and metric.name in row.figures]
    found: dict[str, Any] = {
        "name": metric.name,
        "title": metric.title,
        "better": metric.better,
        "quality": metric.family == "quality",
        "main": metric in comparison.mains,
    }
    if figures and metric in comparison.mains:
        axis = axis_of(figures, log=metric.family != "quality")
        found["axis"] = {
            "scale": axis.scale(alt).to_dict(validate=False),
            "axis": axis.axis(alt).to_dict(validate=False),
            "title": titled(metric),
        }
        factor, unit = prefixed(max(figure.value for figure in figures), metric.unit)
        found["limit"] = {"factor": factor, "unit": "" if unit == "fraction" else unit}
    return found


def _figure(row: Row, metric: Metric) -> list[Any] | None:
    figure = row.figures.get(metric.name)
    if figure is None:
        return None
    low, high = figure.interval or (None, None)
    return [_short(figure.value), _short(low), _short(high), str(figure), figure.contended or 0, words.middle(figure)]


def _short(value: float | None) -> float | None:
    return None if value is None else short(value)


def _view(comparison: Comparison, order: Sequence[Row], shown: Sequence[Metric], answer: str) -> dict[str, Any]:
    by_name = {row.name: row for row in comparison.rows}
    rows = [by_name[row.name] for row in order]
    return {
        "answer": answer,
        "standing": [standing(row, comparison) for row in rows],
        "forest": differences(comparison),
        "changes": {metric.name: [_change(row, metric) for row in rows] for metric in shown},
    }


def _change(row: Row, metric: Metric) -> list[Any] | None:
    change = row.changes.get(metric.name)
    if change is None:
        return None
    return [_short(change.value), str(change), words.between(change), words.verdict(change)]
