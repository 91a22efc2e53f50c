"""The head's figures for github-action-benchmark, which draws them over commits: one file for each direction.

Source: https://github.com/benchmark-action/github-action-benchmark, ``customSmallerIsBetter`` and ``customBiggerIsBetter``.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from bench.compare import stats
from bench.gate.verdict import Check, Verdict
from bench.metrics.units import show
from reports.gate import words


def entries(verdict: Verdict, better: Literal["higher", "lower"]) -> str:
    """The file of what is `better` so; empty where there is nothing. Values are in the metric's own unit; ``range`` is
    half of the 95 % interval of the median."""
    found = [_entry(verdict, check) for check in verdict.checks if check.better == better and check.head is not None]
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n" if found else ""


def _entry(verdict: Verdict, check: Check) -> dict[str, Any]:
    found: dict[str, Any] = {"name": words.escaped(check.name), "value": check.head, "unit": check.unit}
    if interval := stats.of_median(check.head_values):
        found["range"] = f"± {(interval[1] - interval[0]) / 2:.3g}"
    found["extra"] = (
        f"{words.outcome(verdict, check)}\nbase: {show(check.base, check.unit)}\n"
        f"change: {words.found_by(check) or '–'}\nallowed: {words.printable(check.allowed)}"
    )
    return found
