"""When a run that settles looks at its recipes, and how sure it must be at each look.

Whoever looks several times, and goes on until something shows, is wrong more often than each look is. So the 5 % are divided
evenly among all looks that there may be (Bonferroni), whether they are made or not: at each, Holm's correction holds a fifth of
it over the recipes, and an interval must have 99 % to lie inside the margin (repeated confidence intervals, Jennison and
Turnbull 1989; Holm's procedure at looks, Ye, Li, Liu and Yao 2013, "A group sequential Holm procedure"). This is so however
the looks depend on each other, whichever recipes go on, whenever one stops: no --max-seeds changes what a verdict takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import stats

LOOKS = 5
"""How many there may be."""

LEAST = 3
"""Seeds at the first look: two tell too little of how seeds differ."""


def looks(seeds: int) -> tuple[int, ...]:
    """The numbers of seeds of a recipe at which a run looks that begins with `seeds`: half as many more each time."""
    found = [max(LEAST, seeds)]
    while len(found) < LOOKS:
        found.append(found[-1] + (found[-1] + 1) // 2)
    return tuple(found)


def level(planned: Sequence[int]) -> float:
    """The confidence that an interval must have at each of the looks that are `planned`."""
    return 1 - (1 - stats.LEVEL) / max(1, len(planned))
