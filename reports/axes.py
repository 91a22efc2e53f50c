"""Axes whose ticks and ends are chosen here, so that labels can be placed and ticks carry units as tables do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.rows import Figure
from bench.metrics.metric import Metric
from bench.metrics.units import show


@dataclass(frozen=True)
class Axis:
    """A domain and its ticks, chosen here so that labels can be placed and ticks carry :func:`show`'s
    units."""

    low: float
    high: float
    log: bool
    unit: str

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def scale(self, alt: Any) -> Any:
        """The scale, as altair, which is `alt`, has it."""
        zero = {} if self.log else {"zero": False}
        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False, **zero)

    def axis(self, alt: Any) -> Any:
        """The axis, as altair, which is `alt`, has it."""
        ticks = _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)
        labels = json.dumps([_tick_label(tick, self.unit) for tick in ticks])
        return alt.Axis(
            values=ticks, labelExpr=f"{labels}[indexof({json.dumps(ticks)}, datum.value)]", labelOverlap=True
        )


def axis_of(figures: Sequence[Figure], *, log: bool) -> Axis:
    """The axis that `figures` of one metric lie on; where `log`, it is logarithmic if they differ by much."""
    ends = [end for figure in figures for end in figure.interval or ()]
    values = [figure.value for figure in figures]
    smallest, largest = min(values), max(values)
    # An interval of two seeds can be wider than all that is compared; it may leave the picture, the
    # points may not.
    room = largest - smallest or abs(largest) or 1.0
    low = max(min([smallest, *ends]), smallest - room / 5)
    high = min(max([largest, *ends]), largest + room / 5)
    if log and smallest > 0 and largest / smallest > 5:
        low = max(low, smallest / 1.5)
        margin = (high / low) ** 0.08
        return Axis(low / margin, high * margin, True, figures[0].metric.unit)
    margin = (high - low or abs(high) or 1.0) * 0.08
    bottom = low - margin
    return Axis(max(bottom, 0.0) if low >= 0 else bottom, high + margin, False, figures[0].metric.unit)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _tick_label(value: float, unit: str) -> str:
    if unit == "×":
        return f"{value:g}×"
    number, _, name = show(value, unit).partition(" ")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    # The axis title has the unit where it does not scale with the value.
    return number if name in ("", unit) and unit not in ("s", "B") else f"{number} {name}"


def titled(metric: Metric) -> str:
    """The metric's title, with the unit where ticks do not carry it."""
    scaled = metric.unit in ("s", "B", "FLOP", "count", "fraction")
    return metric.title if scaled else f"{metric.title} ({metric.unit})"
