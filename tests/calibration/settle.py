"""Simulated runs with --settle: what is decided after how many seeds, by the rule of :mod:`bench.compare.looks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.compare import stats
from bench.compare.looks import level
from tests.calibration.suites import Recipes


@dataclass(frozen=True)
class Settled:
    """What was decided of the recipes of suites, and after how many seeds. All arrays are (suites, recipes)."""

    same: NDArray[np.bool_]
    differs: NDArray[np.bool_]
    seeds: NDArray[np.int64]

    @property
    def share(self) -> float:
        """How many of all recipes were settled."""
        return float((self.same | self.differs).mean())

    @classmethod
    def of(
        cls, each: NDArray[np.float32], at: Sequence[int], planned: Sequence[int], margin: float, stops: bool = True
    ) -> Settled:
        """Decide on differences (suites, recipes, seeds, items) `at` some numbers of seeds, of those that are `planned`.

        ``stops``: a recipe gets no more seeds where only more test items would settle it.
        """
        confidence, times = level(planned), max(1, len(planned))
        shape = each.shape[:2]
        same, differs, open_ = np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
        p, seeds = np.ones(shape), np.zeros(shape, np.int64)
        for look in at:
            found = stats.two_way(each[:, :, :look])
            noise = np.where(found.error > 0, found.error, np.inf)  # nothing differs, and p is 1
            p = np.where(open_, np.minimum(times * stats.p_value(found.mean, noise, found.freedom), 1.0), p)
            seeds[open_] = look
            half = stdtrit(found.freedom, (1 + confidence) / 2) * found.error
            inside = np.abs(found.mean) + half <= margin + 1e-12
            adjusted = stats.holm(p)
            same |= open_ & inside
            # One that has stopped may still be decided: what the others show makes Holm's level higher.
            differs |= ~same & (adjusted <= 1 - stats.LEVEL)
            open_ &= ~same & ~differs
            if stops:
                waiting = (adjusted > 1 - stats.LEVEL).sum(axis=1, keepdims=True)
                alpha = (1 - confidence) / np.maximum(waiting, 1)
                open_ &= ~stats.left_open(found.mean, found.fixed, margin, alpha, confidence)
        return cls(same, differs, seeds)


def simulate(
    recipes: Recipes,
    rng: np.random.Generator,
    suites: int,
    true: float,
    rules: Sequence[tuple[Sequence[int], Sequence[int]]],
    margin: float,
) -> list[Settled]:
    """What each of the `rules`, numbers of seeds to look at and those that are planned, decides of the same suites."""
    most = max(look for at, _ in rules for look in at)
    chunks = [
        [Settled.of(each, at, planned, margin) for at, planned in rules]
        for each in recipes.differences(rng, suites, most, true)
    ]
    columns = ("same", "differs", "seeds")
    return [
        Settled(*(np.concatenate([getattr(each, name) for each in of]) for name in columns))
        for of in zip(*chunks, strict=True)
    ]
