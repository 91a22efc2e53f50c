"""Which recipe to use where something must hold: the best by one metric among those that keep to all bounds.

Estimates decide, the means over seeds: the safe ends of the intervals of a few seeds would leave nothing. Where an interval
crosses a bound, that is among the facts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from bench.compare.compare import Comparison, of_folder
from bench.compare.rows import Figure, Row
from bench.metrics import registry
from bench.metrics.metric import Metric, MetricError
from bench.metrics.units import quantity
from bench.recipe.errors import nearest
from bench.suite.gate import GATED, SHORT

KEYS = tuple(key for key in SHORT if key != "seconds")
"""The short keys of metrics, as a suite's ``[gate]`` has them. ``latency`` is here the report's, and ``quality`` what ranks the
recipes. Of a key with several metrics, such as ``peak_memory``, a recipe's worst figure counts."""


@dataclass(frozen=True)
class Wanted:
    """What a key stands for in one comparison."""

    key: str
    metrics: tuple[Metric, ...]

    def figure(self, row: Row) -> Figure | None:
        """The recipe's figure, of several the worst; None where none was measured."""
        found = [row.figures[metric.name] for metric in self.metrics if metric.name in row.figures]
        return max(found, key=lambda figure: figure.value * _sign(figure.metric), default=None)


@dataclass(frozen=True)
class Bound:
    """``kind`` is ``max`` or ``min``: the figure may be ``limit`` at most, or at least, in the metric's unit; as it was
    written that is ``text``."""

    kind: Literal["max", "min"]
    wanted: Wanted
    limit: float
    text: str

    def __str__(self) -> str:
        return f"{self.wanted.key} {'≤' if self.kind == 'max' else '≥'} {self.text}"

    def excess(self, value: float) -> float:
        """By how much `value` goes beyond the limit; at most 0 where it holds."""
        return value - self.limit if self.kind == "max" else self.limit - value

    def holds(self, row: Row) -> bool:
        """Whether the estimate keeps to it; not where there is none."""
        figure = self.wanted.figure(row)
        return figure is not None and self.excess(figure.value) <= 0

    def doubtful(self, row: Row) -> bool:
        """Whether the interval crosses the limit, or there is none of what has noise."""
        figure = self.wanted.figure(row)
        if figure is None:
            return False
        if figure.interval is None:
            return not figure.metric.exact
        low, high = (self.excess(end) <= 0 for end in figure.interval)
        return low != high


@dataclass(frozen=True)
class Picked:
    """What keeps to the bounds in one comparison."""

    comparison: Comparison
    by: Wanted
    bounds: tuple[Bound, ...]

    @cached_property
    def candidates(self) -> list[Row]:
        """The recipes that ended ok and keep to all bounds, the best first."""
        found = [
            (figure.value * _sign(figure.metric), number, row)
            for number, row in enumerate(self._ok)
            if all(bound.holds(row) for bound in self.bounds) and (figure := self.by.figure(row))
        ]
        return [row for *_, row in sorted(found, key=lambda each: each[:2])]

    @property
    def row(self) -> Row | None:
        """The recipe; None where there is none."""
        return self.candidates[0] if self.candidates else None

    @property
    def _ok(self) -> list[Row]:
        return [row for row in self.comparison.rows if row.ok]

    @property
    def without_result(self) -> list[Row]:
        """The recipes that did not end ok for every seed."""
        return [row for row in self.comparison.rows if not row.ok]

    def excluded(self, bound: Bound) -> list[Row]:
        """The recipes with a figure beyond `bound`, the nearest miss first: of those that miss nothing else, if there are any."""
        missed = [
            (not self.alone(bound, row), bound.excess(figure.value), number, row)
            for number, row in enumerate(self._ok)
            if not bound.holds(row) and (figure := bound.wanted.figure(row))
        ]
        return [row for *_, row in sorted(missed, key=lambda each: each[:3])]

    def alone(self, bound: Bound, row: Row) -> bool:
        """Whether `row` keeps to all other bounds."""
        return all(other.holds(row) for other in self.bounds if other is not bound)

    def unmeasured(self, wanted: Wanted) -> list[Row]:
        """The recipes that have no figure of `wanted`."""
        return [row for row in self._ok if wanted.figure(row) is None]

    @property
    def wanted(self) -> list[Wanted]:
        """What was asked for, each once: what decides first."""
        return list({each.key: each for each in (self.by, *(bound.wanted for bound in self.bounds))}.values())

    @property
    def uncertain(self) -> list[Bound]:
        """The bounds that the picked recipe may not keep to."""
        return [bound for bound in self.bounds if self.row and bound.doubtful(self.row)]

    @property
    def close(self) -> list[Row]:
        """The candidates whose interval, of what decides, meets the picked recipe's."""
        first = self.by.figure(self.row) if self.row else None
        if first is None or first.interval is None:
            return []
        low, high = first.interval
        ends = [(row, each.interval) for row in self.candidates[1:] if (each := self.by.figure(row)) and each.interval]
        return [row for row, interval in ends if interval[0] <= high and interval[1] >= low]


def pick(
    comparison: Comparison, bounds: Sequence[tuple[Literal["max", "min"], str, str | float]], by: str = "quality"
) -> Picked:
    """The best by `by` of the recipes of `comparison` that keep to `bounds`, such as ``("max", "peak_memory", "8GiB")``.

    Raises:
        MetricError: there is no such metric, or a value is in another unit.
    """
    return Picked(comparison, _wanted("by", by, comparison), tuple(_bounds(bounds, comparison)))


def pick_of(
    folder: str | os.PathLike[str],
    *,
    max: Mapping[str, str | float] | None = None,
    min: Mapping[str, str | float] | None = None,
    by: str = "quality",
) -> list[Picked]:
    """:func:`pick` for each comparison of a results folder.

    Raises:
        RecordError: there are no records. MetricError: there is no such metric, or a value is in another unit.
    """
    bounds: list[tuple[Literal["max", "min"], str, str | float]] = [
        *(("max", key, value) for key, value in (max or {}).items()),
        *(("min", key, value) for key, value in (min or {}).items()),
    ]
    return [pick(comparison, bounds, by) for comparison in of_folder(folder)]


def _bounds(
    bounds: Sequence[tuple[Literal["max", "min"], str, str | float]], comparison: Comparison
) -> Iterator[Bound]:
    for kind, key, value in bounds:
        wanted = _wanted(kind, key, comparison)
        try:
            yield Bound(kind, wanted, quantity(str(value), _unit(key, wanted)), str(value))
        except ValueError as error:
            raise MetricError(f"{kind} {key}: its value is {error}") from None


def _wanted(what: str, key: str, comparison: Comparison) -> Wanted:
    if key in ("quality", "latency"):
        found = comparison.primary if key == "quality" else comparison.main("latency")
        return Wanted(key, (found,) if found else ())
    for name in GATED.get(key, (key,)):
        try:
            registry.metric(name)
        except KeyError:
            known = [*KEYS, *(metric.name for metric in comparison.metrics)]
            raise MetricError(f"{what} {key}: no metric is called so{nearest(key, known)}") from None
    return Wanted(key, tuple(metric for metric in comparison.metrics if metric.name in GATED.get(key, (key,))))


def _unit(key: str, wanted: Wanted) -> str:
    if wanted.metrics:
        return wanted.metrics[0].unit
    return {"quality": "fraction", "latency": "s"}.get(key) or registry.metric(GATED.get(key, (key,))[0]).unit


def _sign(metric: Metric) -> int:
    return -1 if metric.better == "higher" else 1
