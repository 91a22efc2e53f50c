"""Units, and values in them as text. Nothing else in the project spells a unit."""

from __future__ import annotations

import math
import re

_PREFIXES: dict[str, list[tuple[float, str]]] = {
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
    "B": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")],
    "FLOP": [(1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")],
    "count": [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")],
}

_INSTEAD = {scaled: unit for unit, names in _PREFIXES.items() for _, scaled in names if scaled not in ("", unit)}
_INSTEAD |= {"%": "fraction", "percent": "fraction", "seconds": "s", "bytes": "B", "FLOPs": "FLOP", "x": "×"}


NEARLY_0 = 1e-6
"""What is smaller and has no prefix, such as a divergence in nats, is rounding."""


def problem(unit: str) -> str:
    """Why no metric may be in `unit`; empty where one may. A unit that is not known here is shown as it is written."""
    if not unit or unit != unit.strip():
        return f"unit {unit!r} is no word; a metric without a unit is a `fraction`, a `count` or a ratio, `×`"
    if unit in _INSTEAD:
        return f"unit `{unit}` is written `{_INSTEAD[unit]}`: values have no prefix, and reports choose one"
    return ""


def show(value: float | None, unit: str) -> str:
    """A value with its unit, in three significant digits: ``1.23 ms``, ``86.7 MB``. "–" where there is none, or none that is finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "fraction":
        return f"{value:.3f}"
    if unit in _PREFIXES:
        factor, name = prefixed(value, unit)
        return f"{_three(value / factor)} {name}"
    if 0 < abs(value) < NEARLY_0:
        return f"≈0 {unit}"
    return f"{_three(value)}×" if unit == "×" else f"{_three(value)} {unit}"


def prefixed(value: float, unit: str) -> tuple[float, str]:
    """The unit that a reader expects for `value`, as how many of `unit` it is, and its name: (1e6, "MB") for 86,700,000 B."""
    names = _PREFIXES.get(unit, [(1.0, unit)])
    return next(((factor, name) for factor, name in names if abs(value) >= factor), names[-1])


BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
"""Units of an amount of memory, as people write them."""


def quantity(text: str, unit: str) -> float:
    """The value that `text` says, in `unit`, as people write it: ``8GiB``, ``20 ms``, ``70%``, ``1,712``, ``0.7``.

    Raises:
        ValueError: it is no number, or its unit is another; the message ends a sentence such as "--max latency is".
    """
    known = dict(BYTES) if unit == "B" else {name: factor for factor, name in _PREFIXES.get(unit, []) if name}
    known |= {"s": {"us": 1e-6}, "fraction": {"%": 0.01}}.get(unit, {}) if unit in ("s", "fraction") else {unit: 1.0}
    found = re.fullmatch(r"\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(.*?)\s*", text, re.I)
    if found and found[2] in ("", *known):
        return float(found[1].replace(",", "")) * known.get(found[2], 1.0)
    example = {"fraction": "0.7 or 70%", "B": "8GiB", "s": "20ms"}.get(unit, f"3 {unit}")
    raise ValueError(f"a number, with {' or '.join(known)} where it has a unit, as in {example}; found {text!r}")


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 stage``, ``2,800 texts``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _three(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 6)}f}"
