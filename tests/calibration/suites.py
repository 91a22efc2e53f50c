"""Simulated suites: which test items a baseline and its recipes answer right, for each seed, with the true differences known.

A model answers an item right where a hidden score is above a threshold. The baseline's score is the item's ease, the seed's
luck and the noise of one item under one seed. A recipe's score is the baseline's with what the recipe does to the item under
any seed, what it does under this one, and what the seed does to the whole recipe. All are normal, so that the share of items
that are right is known exactly, and the threshold is set to make the difference what it shall be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

ITEMS = 400
ACCURACY = 0.75
SPREADS = np.geomspace(0.0013, 0.058, 13)
"""Standard deviations over seeds of the accuracy's difference, by recipe: as far as those of the default suite lie apart."""

EASE, LUCK, NOISE = 0.8, 0.05, 0.6
_VARIANCE = EASE**2 + LUCK**2 + NOISE**2
_DENSITY = 0.3178
"""Of the standard normal where a quarter lies below: how much accuracy a small shift of all scores is worth."""

CHUNK = 50


@dataclass(frozen=True)
class Recipes:
    """What each of the recipes does to scores: ``each`` to single items, once under any seed and once more under this one,
    and ``all_`` to all of them under a seed. Standard deviations."""

    each: NDArray[np.float64]
    all_: NDArray[np.float64]

    @classmethod
    def of(cls, spreads: NDArray[np.float64], items: int = ITEMS) -> Recipes:
        """Those whose differences spread over seeds as `spreads` say.

        Changes of d to single items, twice, move about 0.8 * √2 * d * density of them over the threshold, up or down. Half of
        the variance is due to them, as long as they move no more than a fifth of the items.
        """
        flips = 0.8 * np.sqrt(2 / _VARIANCE) * _DENSITY
        each = np.minimum(spreads**2 / 2 * items / flips, 0.5)
        rest = spreads**2 - flips * each / items
        return cls(each, np.sqrt(rest * (_VARIANCE + 2 * each**2)) / _DENSITY)

    def differences(
        self, rng: np.random.Generator, suites: int, seeds: int, true: float, items: int = ITEMS
    ) -> Iterator[NDArray[np.float32]]:
        """`suites` suites in chunks (suites, recipes, seeds, items): 1 where only the recipe is right, -1 where only the
        baseline is. Each recipe's accuracy is `true` above the baseline's."""
        variance = _VARIANCE + 2 * self.each**2 + self.all_**2
        least = -ndtri(ACCURACY + true) * np.sqrt(variance)
        each, all_, least = (a[:, None, None].astype(np.float32) for a in (self.each, self.all_, least))

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape, dtype=np.float32)

        for first in range(0, suites, CHUNK):
            n, recipes = min(CHUNK, suites - first), len(self.each)
            baseline = (
                EASE * normal(n, 1, 1, items) + LUCK * normal(n, 1, seeds, 1) + NOISE * normal(n, 1, seeds, items)
            )
            score = normal(n, recipes, seeds, items)
            score += normal(n, recipes, 1, items)
            score *= each
            score += all_ * normal(n, recipes, seeds, 1)
            score += baseline
            right = baseline > np.float32(-ndtri(ACCURACY) * np.sqrt(_VARIANCE))
            yield (score > least).astype(np.float32) - right
