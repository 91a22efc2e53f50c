"""Comparisons for other programs: JSON and CSV. Values in the metric's own unit, never scaled or rounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports import sentences, words

SCHEMA = 2
"""Version of both; counts up when a key changes its meaning or goes."""


class Json:
    """One object: ``recipes`` of all comparisons, each with its ``model`` and ``task``; and the ``comparisons``."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._about: list[str] = []
        self._before = f'{{"schema": {SCHEMA},\n"recipes": [\n'

    def add(self, comparison: Comparison) -> str:
        """Its recipes."""
        # A line a recipe: as readable as indents with ten recipes, and a fifth of the memory with ten thousand.
        self._about.append(_line(_about(comparison)))
        text = self._before + ",\n".join(_line(_recipe(comparison, row)) for row in comparison.rows)
        self._before = ",\n"
        return text

    def end(self) -> str:
        """The comparisons."""
        begin = "" if self._about else self._before.removesuffix("\n")
        lines = ",\n".join(self._about)
        return f'{begin}\n],\n"comparisons": [\n{lines}\n]}}\n'


def _about(comparison: Comparison) -> dict[str, Any]:
    return {
        "title": comparison.title,
        "model": comparison.model,
        "task": comparison.task,
        "baseline": comparison.baseline,
        "primary": comparison.primary.name if comparison.primary else None,
        "headline": sentences.headline(comparison),
        "warnings": sentences.warnings(comparison),
        "run": comparison.run,
        "started": comparison.started,
        "version": comparison.version,
        "data": dict(comparison.data),
        "references": [
            {
                "name": each.name,
                "about": each.about,
                "metrics": {name: figure.value for name, figure in each.figures.items()},
            }
            for each in comparison.references
        ],
        "environment": comparison.environment,
    }


def _line(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:  # an environment may hold what it likes
        finite = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False)


def _recipe(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "recipe": row.recipe,
        "title": comparison.title,
        "model": comparison.model,
        "task": comparison.task,
        "baseline": row.is_baseline,
        "status": row.status,
        "seeds": list(row.seeds),
        "seeds_ok": list(row.succeeded),
        "reasons": words.reasons(row),
        "metrics": {metric.name: _metric(row, metric) for metric in comparison.metrics if metric.name in row.figures},
        "processes": [{name: figure.value for name, figure in figures.items()} for figures in row.processes],
    }


def _metric(row: Row, metric: Metric) -> dict[str, Any]:
    figure, change = row.figures[metric.name], row.changes.get(metric.name)
    found: dict[str, Any] = {
        "value": figure.value,
        "unit": metric.unit,
        "better": metric.better,
        "interval": list(figure.interval) if figure.interval else None,
        "by_seed": {str(seed): value for seed, value in figure.by_seed.items()},
        "contended": figure.contended,
    }
    if change is not None:
        found |= {
            change.kind: change.value,
            f"{change.kind}_interval": list(change.interval) if change.interval else None,
            "interval_covers": change.covers,
            "verdict": change.verdict,
            "margin": change.margin,
            "p": change.p,
            "adjusted_p": change.adjusted_p,
            "detectable": change.settling and change.settling.detectable,
            "seeds_to_settle": change.settling and change.settling.seeds,
        }
    return found


_COLUMNS = (
    "title", "model", "task", "name", "recipe", "baseline", "status", "seeds", "seeds_ok", "reasons",
    "metric", "unit", "better", "value", "low", "high", "compared_by", "change", "change_low",
    "change_high", "interval_covers", "verdict", "margin", "p", "adjusted_p", "detectable",
    "seeds_to_settle", "contended",
)  # fmt: skip


def _harmless(cell: object) -> object:
    """A spreadsheet takes a text that begins with one of these signs for a formula: such a text gets a quote.

    Source: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


class Csv:
    """One line for each recipe and metric, and one without a metric for a recipe that gave no figure."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        self._before = _csv([_COLUMNS])

    def add(self, comparison: Comparison) -> str:
        """Its lines."""
        text, self._before = self._before, ""
        return text + "".join(_csv(_lines(comparison, row)) for row in comparison.rows)

    def end(self) -> str:
        """The head, where there is nothing else."""
        return self._before


def _lines(comparison: Comparison, row: Row) -> list[list[object]]:
    recipe: list[object] = [
        comparison.title,
        comparison.model,
        comparison.task,
        row.name,
        row.recipe,
        row.is_baseline,
        row.status,
        len(row.seeds),
        len(row.succeeded),
        "; ".join(words.reasons(row)),
    ]
    measured = [metric for metric in comparison.metrics if metric.name in row.figures]
    empty = [*recipe, *[""] * (len(_COLUMNS) - len(recipe))]
    return [[*recipe, *_values(row, metric)] for metric in measured] or [empty]


def _csv(rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([_harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


def _values(row: Row, metric: Metric) -> list[Any]:
    figure, change = row.figures[metric.name], row.changes.get(metric.name)
    values = [metric.name, metric.unit, metric.better, figure.value, *(figure.interval or ("", ""))]
    if change is None:
        return [*values, *[""] * 11, figure.contended or ""]
    ends = change.interval or ("", "")
    settling = (change.settling.detectable, change.settling.seeds) if change.settling else (None, None)
    tested = ["" if each is None else each for each in (change.p, change.adjusted_p, *settling)]
    said = [change.kind, change.value, *ends, change.covers, change.verdict, change.margin, *tested]
    return [*values, *said, figure.contended or ""]
