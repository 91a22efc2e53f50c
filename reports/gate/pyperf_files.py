"""The timings of both sides for pyperf: ``python -m pyperf compare_to pyperf-base.json pyperf-head.json``."""

from __future__ import annotations

import io
from typing import Literal

from bench.gate.verdict import Check, Verdict
from reports.gate import words


def suite(verdict: Verdict, side: Literal["base", "head"]) -> str:
    """The file of one `side`, with a run for each worker; empty where nothing was timed.

    pyperf knows seconds, of which fewer are better: a rate becomes seconds for one of what it counts. Both sides have the
    same benchmarks with as many values, all above 0.
    """
    import pyperf

    benchmarks: dict[str, pyperf.Benchmark] = {}
    for check in verdict.checks:
        if values := _seconds(check)[side]:
            metadata = {"name": _name(check), "unit": "second", "loops": 1}
            runs = [pyperf.Run([value], metadata=metadata, collect_metadata=False) for value in values]
            benchmarks[_name(check)] = pyperf.Benchmark(runs)
    if not benchmarks:
        return ""
    out = io.StringIO()
    pyperf.BenchmarkSuite(list(benchmarks.values())).dump(out)
    return out.getvalue()


def _name(check: Check) -> str:
    counted = check.unit.removesuffix("/s").removesuffix("s")
    return words.escaped(check.name if check.unit == "s" else f"{check.name}, seconds/{counted}")


def _seconds(check: Check) -> dict[str, list[float]]:
    pairs = list(zip(check.base_values, check.head_values, strict=False))
    if check.unit != "s" and not check.unit.endswith("/s"):
        pairs = []
    pairs = [pair for pair in pairs if min(pair) > 0]
    if check.unit != "s":
        pairs = [(1 / base, 1 / head) for base, head in pairs]
    return {"base": [base for base, _ in pairs], "head": [head for _, head in pairs]}
