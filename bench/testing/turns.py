"""Two callables timed in turns, and held against the gate's rule: what the fixture ``methodbench_gate`` gives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from bench.gate.decision import Decision, Limits, Rule, decide, quantile
from bench.suite.tolerance import share

_REPEATS = 6
"""Timed repeats of each callable in a pair."""
_SHORTEST = 0.005
"""Seconds that a repeat takes at least: a faster callable is called more than once."""


def gate(
    base: Callable[[], object],
    head: Callable[[], object],
    *,
    tolerance: str = "3%",
    margin: str = "1%",
    alpha: float = 0.01,
    max_pairs: int = 20,
    clock: Callable[[], float] = time.process_time,
) -> Decision:
    """Fail the test if `head` is slower than `base` by more than `tolerance`; skip it if that cannot be told.

    The two take turns in this process, in the order A B B A. :mod:`bench.gate.decision` decides, with `alpha` as the
    probability of a false alarm. By default the clock is this process's CPU time. Pass ``clock=time.perf_counter`` for
    what waits for others, such as a GPU.

    Raises:
        ValueError: a share is none, or by `clock` a callable takes no time.
    """
    import pytest

    limits = Limits(math.log1p(share(margin, "margin")), math.log1p(share(tolerance, "tolerance")))
    calls = [(call, _loops(call, clock)) for call in (base, head)]
    asking = decide({"time": limits}, Rule(alpha=alpha, most=max_pairs))
    next(asking)
    order, seconds = [0, 1], [0.0, 0.0]
    while True:
        for which in order:
            seconds[which] = median(_seconds(*calls[which], clock) for _ in range(_REPEATS))
        order.reverse()
        try:
            asking.send({"time": math.log(seconds[1] / seconds[0])})
        except StopIteration as stop:
            decision: Decision = stop.value["time"]
            break
    if decision.outcome == "regression" and (found := decision.estimate):
        half = quantile(found.freedom, 0.975) * found.error
        mean, low, high = (100 * math.expm1(value) for value in (found.mean, found.mean - half, found.mean + half))
        pytest.fail(f"{mean:.1f} % slower ({low:.1f} to {high:.1f} %); {tolerance} is allowed", pytrace=False)
    if decision.outcome == "inconclusive":
        pytest.skip(f"whether it is slower cannot be told: {decision.reason}")
    return decision


def _loops(call: Callable[[], object], clock: Callable[[], float]) -> int:
    call()  # the first call is a warm-up
    loops, begin = 1, time.perf_counter()
    while _seconds(call, loops, clock) * loops < _SHORTEST:
        if time.perf_counter() - begin > 2:
            raise ValueError("by this clock the callable takes no time; pass clock=time.perf_counter")
        loops *= 2
    return loops


def _seconds(call: Callable[[], object], loops: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(loops):
        call()
    return (clock() - begin) / loops
