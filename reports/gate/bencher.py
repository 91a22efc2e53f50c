"""The head's figures in the Bencher Metric Format: recipes are benchmarks, metrics are measures.

Source: https://bencher.dev/docs/reference/bencher-metric-format.
"""

from __future__ import annotations

import json

from bench.compare import stats
from bench.gate.verdict import Verdict
from reports.gate import words


def metrics(verdict: Verdict) -> str:
    """The file; empty where there is nothing. Values are in the metric's own unit, with the 95 % interval of the median."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for check in verdict.checks:
        if check.head is None:
            continue
        measured = {"value": check.head}
        if interval := stats.of_median(check.head_values):
            measured |= {"lower_value": interval[0], "upper_value": interval[1]}
        found.setdefault(words.escaped(check.recipe), {})[words.escaped(check.metric)] = measured
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n" if found else ""
