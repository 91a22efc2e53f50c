"""Comparisons for other programs: JSON, CSV and Parquet. Values in the metric's own unit, never scaled or rounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports import sentences, words
from reports.exchange.base import Foreign

SCHEMA = 2
"""Version of them; counts up when a key changes its meaning or goes."""


class Json:
    """One object: ``recipes`` of all comparisons, each with its ``model`` and ``task``; and the ``comparisons``."""

    def __init__(self, comparisons: Sequence[Comparison], *, foreign: Sequence[Foreign] = ()) -> None:
        self._foreign = foreign
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
        """The comparisons, and what others measured."""
        begin = "" if self._about else self._before.removesuffix("\n")
        lines = ",\n".join(self._about)
        others = ",\n".join(_line(asdict(each)) for each in self._foreign)
        beside = f',\n"measured_by_others": [\n{others}\n]' if others else ""
        return f'{begin}\n],\n"comparisons": [\n{lines}\n]{beside}}}\n'


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
        "tuning": [
            {
                "name": tuning.recipe,
                "metric": tuning.metric.name,
                "seed": tuning.seed,
                "lr": tuning.lr,
                "trials": [
                    {"lr": trial.lr, "value": trial.value, "status": trial.status, "seconds": trial.seconds}
                    for trial in tuning.trials
                ],
            }
            for tuning in comparison.tunings
        ],
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
        "not_in_turns": row.not_in_turns or None,
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
        "seeds_left_out": list(figure.left_out),
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


COLUMNS: Mapping[str, type] = {
    "title": str, "model": str, "task": str, "name": str, "recipe": str, "baseline": bool, "status": str, "seeds": int,
    "seeds_ok": int, "reasons": str, "metric": str, "unit": str, "better": str, "value": float, "low": float, "high": float,
    "compared_by": str, "change": float, "change_low": float, "change_high": float, "interval_covers": str, "verdict": str,
    "margin": float, "p": float, "adjusted_p": float, "detectable": float, "seeds_to_settle": int, "contended": str,
}  # fmt: skip
"""Of the long table, CSV or Parquet: each with what its values are, where there is one."""


def lines(comparison: Comparison) -> Iterator[list[Any]]:
    """A line of :data:`COLUMNS` for each recipe and metric, and one without a metric for a recipe that gave no figure."""
    for row in comparison.rows:
        recipe: list[Any] = [
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
        for values in [_values(row, metric) for metric in measured] or [[None] * (len(COLUMNS) - len(recipe))]:
            yield [*recipe, *values]


def _values(row: Row, metric: Metric) -> list[Any]:
    figure, change = row.figures[metric.name], row.changes.get(metric.name)
    values = [metric.name, metric.unit, metric.better, figure.value, *(figure.interval or (None, None))]
    if change is None:
        return [*values, *[None] * 11, figure.contended]
    ends = change.interval or (None, None)
    settling = (change.settling.detectable, change.settling.seeds) if change.settling else (None, None)
    said = [change.kind, change.value, *ends, change.covers, change.verdict, change.margin]
    return [*values, *said, change.p, change.adjusted_p, *settling, figure.contended]


def foreign_lines(row: Foreign) -> Iterator[list[Any]]:
    """A line of :data:`COLUMNS` for each figure that others measured: by our metric's name where that is the same, else by
    theirs."""
    for value in row.values:
        known = {
            "title": words.BY_OTHERS, "model": row.model, "task": row.task, "name": row.name, "status": words.BY_OTHERS.lower(),
            "reasons": row.source, "metric": value.metric or value.name, "unit": value.unit, "value": value.value,
        }  # fmt: skip
        yield [known.get(column) for column in COLUMNS]


class Csv:
    """The long table."""

    def __init__(self, comparisons: Sequence[Comparison], *, foreign: Sequence[Foreign] = ()) -> None:
        self._foreign = foreign
        self._before = _csv([COLUMNS])

    def add(self, comparison: Comparison) -> str:
        """Its lines."""
        text, self._before = self._before, ""
        return text + _csv(lines(comparison))

    def end(self) -> str:
        """The head, where there is nothing else, and what others measured."""
        return self._before + _csv(line for each in self._foreign for line in foreign_lines(each))


def _csv(rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([_harmless(cell) for cell in row] for row in rows)
    return out.getvalue()


def _harmless(cell: object) -> object:
    """A spreadsheet takes a text that begins with one of these signs for a formula: such a text gets a quote.

    Source: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(_BEGIN_FORMULAS) else cell


_BEGIN_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


class Parquet:
    """The long table as the file `file`; its texts are as they were recorded, for no program takes them for formulas."""

    def __init__(self, file: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        kinds = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        self._table = pyarrow.Table
        self._file = pyarrow.parquet.ParquetWriter(file, self._schema)

    def add(self, comparison: Comparison) -> str:
        """No text."""
        rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines(comparison)]
        self._file.write_table(self._table.from_pylist(rows, schema=self._schema))
        return ""

    def end(self) -> str:
        """No text."""
        self._file.close()
        return ""
