"""What takes turns under the clock: the order of the turns, what a turn takes, and what two sides' turns say of them.

The order is A B B A, so that whatever slows the machine down meanwhile slows both sides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

ROOM = 2**30
"""Bytes that a process holds beside what it times: Python, torch and the libraries."""


@dataclass(frozen=True)
class Timing:
    """Seconds for each unit in one turn, by each clock: the process's CPU time, wall time, and events of the GPU."""

    wall: float
    cpu: float
    cuda: float | None = None

    def by(self, clock: str) -> float:
        """Those of the clock that decides: "cpu", "cuda" or "wall"."""
        seconds: float | None = getattr(self, clock)
        assert seconds is not None, f"no {clock} clock ran"
        return seconds


def order(turns: int, sides: int = 2) -> Iterator[int]:
    """Whose turn it is, until each of the sides, numbered from 0, had so many turns."""
    for turn in range(turns):
        yield from range(sides)[:: 1 if turn % 2 == 0 else -1]


def log_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The logarithm of our time over theirs: the median over the turns that were neighbours, which saw the same machine.

    NaN where a time is 0. Its spread was down to 0.4 of that of the ratio of the sides' medians.
    """
    if min(*ours, *theirs) <= 0:
        return math.nan
    return statistics.median(math.log(a / b) for a, b in zip(ours, theirs, strict=True))


def fit_together(peaks: Iterable[float], memory: float | None) -> bool:
    """Whether processes that hold so many bytes at their peaks fit into the `memory`, of which None is not known."""
    return sum(peak + ROOM for peak in peaks) < 0.9 * (memory or math.inf)
