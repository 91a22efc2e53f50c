"""Who decides: our gate, and the decision code of three other tools, which is imported and not imitated."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import numpy as np
import pyperf
from pyperf._compare import CompareData, CompareResult
from pytest_benchmark.stats import Stats
from pytest_benchmark.utils import parse_compare_fail

from bench.gate.decision import Decision, Limits, Rule, decide

LIMITS = Limits(margin=math.log(1.01), tolerance=math.log(1.03))
"""Of all timings here: a slowdown of 1 % does not matter, one of 3 % is allowed."""

Peer = Callable[[np.ndarray, np.ndarray], bool]
"""Whether a tool calls the second (workers, repeats) a regression of the first."""


def gate(differences: np.ndarray, rule: Rule, *, beside: int = 0) -> list[Decision]:
    """What our gate decides of each row of `differences`, (metrics, pairs), with `beside` other tests in the same gate.

    Raises:
        IndexError: it asks for more pairs than there are.
    """
    rows = {str(number): row.tolist() for number, row in enumerate(differences)}
    given = dict.fromkeys(rows, 0)
    deciding = decide(dict.fromkeys(rows, LIMITS), rule, beside=beside)
    try:
        wanted = next(deciding)
        while True:
            pair = {name: rows[name][given[name]] for name in wanted}
            for name in wanted:
                given[name] += 1
            wanted = deciding.send(pair)
    except StopIteration as end:
        found: dict[str, Decision] = end.value
        return [found[name] for name in rows]


def peers() -> dict[str, Peer]:
    """The other tools' rules, by what a user writes; asv's are left out where it is not installed."""
    found: dict[str, Peer] = {
        "pyperf compare_to": lambda base, head: by_pyperf(base, head, None),
        "pyperf compare_to --min-speed=3": lambda base, head: by_pyperf(base, head, 3),
        "pytest --benchmark-compare-fail=mean:5%": lambda base, head: by_pytest_benchmark(base, head, "mean:5%"),
        "pytest --benchmark-compare-fail=mean:3%": lambda base, head: by_pytest_benchmark(base, head, "mean:3%"),
    }
    if importlib.util.find_spec("asv"):
        found["asv compare"] = lambda base, head: by_asv(base, head, 1.1)
        found["asv compare --factor=1.05"] = lambda base, head: by_asv(base, head, 1.05)
        found["asv compare --factor=1.03"] = lambda base, head: by_asv(base, head, 1.03)
    return found


def by_pyperf(base: np.ndarray, head: np.ndarray, min_speed: float | None) -> bool:
    """It is significant and slower: Student's two-sample t test of all values, two-sided at 5 %."""
    sides = []
    for name, workers in (("base", base), ("head", head)):
        runs = [pyperf.Run(worker, metadata={"name": "timing"}, collect_metadata=False) for worker in workers.tolist()]
        sides.append(CompareData(name, pyperf.Benchmark(runs)))
    result = CompareResult(*sides, min_speed)
    return bool(result.significant and result.norm_mean > 1)


def by_pytest_benchmark(base: np.ndarray, head: np.ndarray, fail: str) -> bool:
    """The check `fail` fails, with all repeats as the rounds of one benchmark."""
    check = parse_compare_fail(fail)
    sides = []
    for workers in (head, base):
        stats = Stats()
        stats.data = workers.ravel().tolist()
        sides.append({check.field: getattr(stats, check.field)})
    return check.fails(*sides) is not None


def by_asv(base: np.ndarray, head: np.ndarray, factor: float) -> bool:
    """The base is better: a Mann-Whitney test of all repeats at 0.2 %, and medians further apart than `factor`."""
    from asv.commands.compare import _is_result_better
    from asv_runner.statistics import compute_stats

    values, samples = [], []
    for workers in (base, head):
        seconds = workers.ravel().tolist()
        value, stats = compute_stats(seconds, 1)
        values.append(value)
        samples.append((stats, seconds))
    return bool(_is_result_better(*values, *samples, factor))
