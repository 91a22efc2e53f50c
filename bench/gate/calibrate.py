"""What a gate could tell on this machine: an A/A comparison, whose differences are noise."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.gate.decision import Rule, as_change, pairs_needed, smallest_of
from bench.gate.gate import GateError, Measured, Tell, Timed, pairs_of, prepare, take, timed
from bench.gate.pairs import Target, WorkerError
from bench.record.reading import read
from bench.suite.gate import GateTable


@dataclass(frozen=True)
class Noise:
    """What one metric does between two sides that are the same, on the scale of its tolerance.

    ``spread`` is the standard deviation of a pair's difference, ``wall_spread`` that by wall time, None of bytes.
    ``smallest`` is the smallest change that a gate finds nine times in ten with as many pairs as it may take, ``needed`` the
    pairs after which that is within what is ``allowed``; None where 1,000 are not enough. ``scale`` is "ratio" or "difference".
    """

    recipe: str
    metric: str
    unit: str
    scale: str
    allowed: str
    pairs: int
    spread: float
    wall_spread: float | None
    smallest: float
    needed: int | None


def calibrate(base: Target, head: Target, table: GateTable, out: Path, pairs: int, tell: Tell) -> list[Noise]:
    """Measure `pairs` pairs of the same, and say what differences between others could be told from that.

    Raises:
        GateError: the suite cannot be run.
    """
    prepared = [prepare(target, table, tell) for target in (base, head)]
    asked = timed(prepared, table)
    if not asked:
        raise GateError("nothing of what [gate] names is timed: name throughput, latency, peak_memory or seconds")
    taking, measured = pairs_of(base, head, prepared, map(read, (base.folder, head.folder)), table, out), Measured()
    found: dict[str, list[float]] = {}
    try:
        for number in range(pairs):
            tell(f"pair {number + 1} of {pairs}")
            for key, difference in take(taking, asked, asked, measured).items():
                found.setdefault(key, []).append(difference)
    except WorkerError as error:
        raise GateError(str(error)) from None
    return [_noise(asked[key], values, measured, table, len(asked)) for key, values in found.items() if len(values) > 1]


def _noise(asked: Timed, differences: list[float], measured: Measured, table: GateTable, tests: int) -> Noise:
    rule, spread = Rule(alpha=table.alpha, most=table.max_pairs), statistics.stdev(differences)
    smallest = smallest_of(spread, rule.most, asked.limits, rule.level(tests))
    of = measured.pairs[f"{asked.case.recipe}: {asked.metric.name}"]
    wall = [math.log(pair.head.wall / pair.base.wall) for pair in of if pair.base.wall > 0]
    return Noise(
        asked.case.recipe,
        asked.metric.name,
        asked.metric.unit,
        asked.tolerance.scale,
        str(asked.tolerance),
        len(differences),
        spread,
        statistics.stdev(wall) if len(wall) > 1 else None,
        as_change(smallest, asked.tolerance.scale),
        pairs_needed(spread, asked.limits, rule, tests) if spread else 0,
    )
