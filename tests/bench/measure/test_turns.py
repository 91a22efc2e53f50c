from __future__ import annotations

import math

import pytest

from bench.measure import turns
from bench.measure.trust import against


def test_the_order_is_a_b_b_a() -> None:
    assert list(turns.order(4)) == [0, 1, 1, 0, 0, 1, 1, 0]
    assert list(turns.order(2, 3)) == [0, 1, 2, 2, 1, 0]
    assert list(turns.order(3, 1)) == [0, 0, 0]


def test_neighbours_are_compared_and_the_median_is_taken() -> None:
    # The machine became three times as slow half-way; each ratio of neighbours is 1.1, but for one.
    assert turns.log_ratio([1.1, 1.1, 1.4, 3.3, 3.3], [1.0, 1.0, 1.0, 3.0, 3.0]) == pytest.approx(math.log(1.1))
    assert math.isnan(turns.log_ratio([1.0], [0.0]))


@pytest.mark.parametrize(
    ("peaks", "memory", "fits"), [((1, 1), 5, True), ((1, 1.6), 5, False), ((1, 1.6), None, True), ((), 1, True)]
)
def test_what_fits_into_memory_leaves_a_tenth_of_it(peaks: tuple[float, ...], memory: float | None, fits: bool) -> None:
    # Each process holds a GiB more than its peak: two of one GiB take 4, of 5 there are 4.5 to have.
    assert turns.fit_together([peak * 2**30 for peak in peaks], memory and memory * 2**30) is fits


@pytest.mark.parametrize(
    ("clock", "says"), [("wall", "threads waited"), ("cuda", "threads waited"), ("cpu", "the hypervisor took 25% of the CPU time")]
)  # fmt: skip
def test_what_speaks_against_a_time_depends_on_its_clock(clock: str, says: str) -> None:
    figures = {"contended": True, "reason": "threads waited", "stolen_seconds": 1.0, "cpu_seconds": 3.0}
    assert against(figures, clock) == says
    assert against({"contended": False, "reason": ""}, clock) == ""
