"""How often a report is wrong, and what it finds: ``nox -s calibration``. The tables are those of docs/statistics.md.

Suites of 13 recipes with unequal spreads are simulated, and decided by the formulas of :mod:`bench.compare.stats`. The
tables, as Markdown, are on standard output. The exit status is 1 where intervals cover less than they promise, or a false
verdict is more likely.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.compare import stats
from bench.compare.looks import looks
from bench.suite.margins import Margins
from tests.calibration.settle import Settled, simulate
from tests.calibration.suites import SPREADS, Recipes

SEEDS = (3, 5, 10)
MARGIN = Margins().quality
WORSE = (MARGIN, 0.02, 0.03, 0.05)
"""True losses of accuracy: one as large as the margin, and some that matter."""

PART = 10
"""Of so many suites, one is simulated for each loss too."""

GROUPS = {"below 0.5 points": (0, 0.005), "0.5 to 2 points": (0.005, 0.02), "above 2 points": (0.02, 1)}
"""Recipes by how their differences spread over seeds."""

ALPHA = 1 - stats.LEVEL
LEAST = stats.LEVEL - 0.01


@dataclass(frozen=True)
class Decided:
    """What was decided of the recipes of suites. All arrays are (suites, recipes)."""

    covered: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    same: NDArray[np.bool_]
    differs: NDArray[np.bool_]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, each: NDArray[np.float32], true: float) -> Decided:
        """Decide on differences (suites, recipes, seeds, items). ``alone`` has no 0 in the interval; ``differs`` is so by
        Holm's correction too, and not the ``same``."""
        found = stats.two_way(each)
        half = stdtrit(found.freedom, 1 - ALPHA / 2) * found.error
        noise = np.where(found.error > 0, found.error, np.inf)  # nothing differs, and p is 1
        p = stats.p_value(found.mean, noise, found.freedom)
        same = np.abs(found.mean) + half <= MARGIN + 1e-12
        covered = np.abs(found.mean - true) <= half + 1e-12
        spread = each.mean(axis=-1, dtype=float).std(axis=-1, ddof=1)
        return cls(covered, p <= ALPHA, same, (stats.holm(p) <= ALPHA) & ~same, spread)


def decide(recipes: Recipes, rng: np.random.Generator, suites: int, seeds: int, true: float) -> Decided:
    """Simulate and decide."""
    chunks = [Decided.of(each, true) for each in recipes.differences(rng, suites, seeds, true)]
    columns = ("covered", "alone", "same", "differs", "spread")
    return Decided(*(np.concatenate([getattr(each, name) for each in chunks]) for name in columns))


def coverage(even: dict[int, Decided]) -> Iterator[str]:
    """The lines of a table: how often intervals hold the truth."""
    yield f"| seeds | intervals that hold the truth | by recipe | at least {LEAST:.0%}, each recipe | at most 96%, on average |"
    yield "| ---: | ---: | ---: | --- | --- |"
    for seeds, found in even.items():
        rate, by_recipe = found.covered.mean(), found.covered.mean(axis=0)
        kept = ("holds" if holds else "does not hold" for holds in (by_recipe.min() >= LEAST, rate <= 0.96))
        yield f"| {seeds} | {rate:.1%} | {by_recipe.min():.1%} to {by_recipe.max():.1%} | {' | '.join(kept)} |"


def family(even: dict[int, Decided], margin: dict[int, Decided]) -> Iterator[str]:
    """The lines of a table: false verdicts."""
    yield "| seeds | any of 13 false, each by its interval | any false, by Holm | false “same”, one recipe at the margin |"
    yield "| ---: | ---: | ---: | ---: |"
    for seeds, found in even.items():
        alone, together = found.alone.any(axis=1).mean(), found.differs.any(axis=1).mean()
        yield f"| {seeds} | {alone:.1%} | {together:.1%} | {margin[seeds].same.mean():.1%} |"


def power(found: dict[tuple[int, float], Decided]) -> Iterator[str]:
    """The lines of a table: what is settled, by how recipes spread and how many seeds there are."""
    losses = [f"{loss * 100:g} points worse: found" for loss in WORSE if loss > MARGIN]
    yield f"| spread over seeds | seeds | equal: “same” | {' | '.join(losses)} |\n| --- | ---: |{' ---: |' * (1 + len(losses))}"
    for name, (low, high) in GROUPS.items():
        of = (low <= SPREADS) & (high > SPREADS)
        for seeds in SEEDS:
            rates = [found[seeds, loss].differs[:, of].mean() for loss in WORSE if loss > MARGIN]
            shown = (f"{rate:.0%}" for rate in (found[seeds, 0.0].same[:, of].mean(), *rates))
            yield f"| {name} | {seeds} | {' | '.join(shown)} |"


FIRST = (3, 5)
MOST = 12
TRUE = {"equal": 0.0} | {f"{loss * 100:g} point{'s' if loss > 0.01 else ''} worse": -loss for loss in WORSE}


def rules(first: int) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Of runs that begin with `first` seeds: --settle, the same as if each look were the only one, all seeds at once, and
    no more than the first."""
    planned = looks(first)
    at = [look for look in planned if look <= MOST]
    return [(at, planned), (at, ()), ([MOST], ()), ([first], ())]


def settling(found: dict[tuple[int, float], list[Settled]]) -> Iterator[str]:
    """The lines of two tables: how often a run that adds seeds is wrong, and what it settles after how many seeds."""
    yield "| seeds at first | any of 13 false, each look at 5 % | any false, by the rule | false “same”, one recipe at the margin |"
    yield "| ---: | ---: | ---: | ---: |"
    for first in FIRST:
        rule, careless, *_ = found[first, 0.0]
        at_margin = found[first, -MARGIN][0].same.mean(axis=0).max()
        false = (f"{each.differs.any(axis=1).mean():.1%}" for each in (careless, rule))
        yield f"| {first} | {' | '.join(false)} | {at_margin:.1%} |"
    yield ""
    yield f"| recipes in truth | seeds at first | settled | seeds, on average | settled, all with {MOST} seeds | and with no more than at first |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, true in TRUE.items():
        for first in FIRST:
            rule, _, once, alone = found[first, true]
            yield f"| {name} | {first} | {rule.share:.0%} | {rule.seeds.mean():.1f} | {once.share:.0%} | {alone.share:.0%} |"


def main(arguments: Sequence[str]) -> int:
    """Simulate and print; 0 where nothing is wrong more often than is promised."""
    parser = argparse.ArgumentParser(prog="nox -s calibration --", description="How often a report is wrong.")
    parser.add_argument("--suites", type=int, default=10_000, metavar="N", help="of each number of seeds; 10000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn; 0")
    given = parser.parse_args(arguments)
    if given.suites < PART:
        parser.error(f"--suites: at least {PART}")
    started, recipes, rng = time.monotonic(), Recipes.of(SPREADS), np.random.default_rng(given.seed)
    found = {}
    for seeds in SEEDS:
        for loss in (0.0, *WORSE):
            found[seeds, loss] = decide(recipes, rng, given.suites // (PART if loss else 1), seeds, -loss)
        print(f"{time.monotonic() - started:6.1f} s  {seeds} seeds", file=sys.stderr, flush=True)
    even, margin = ({seeds: found[seeds, loss] for seeds in SEEDS} for loss in (0.0, MARGIN))
    settled = {}
    for first in FIRST:
        for true in TRUE.values():
            suites = given.suites // (1 if true in (0.0, -MARGIN) else PART)
            settled[first, true] = simulate(recipes, rng, suites, true, rules(first), MARGIN)
        print(f"{time.monotonic() - started:6.1f} s  --settle, {first} seeds at first", file=sys.stderr, flush=True)
    spread = np.sqrt(np.square(even[SEEDS[-1]].spread).mean(axis=0))
    print(f"{given.suites} suites; differences spread over seeds by {spread.min():.4f} to {spread.max():.4f}.\n")
    print(*coverage(even), "", *family(even, margin), "", *power(found), "", *settling(settled), sep="\n")
    covers = all(each.covered.mean(axis=0).min() >= LEAST for each in even.values())
    rare = [each.differs.any(axis=1).mean() <= ALPHA for each in (*even.values(), *(settled[n, 0.0][0] for n in FIRST))]
    rare += [settled[first, -MARGIN][0].same.mean(axis=0).max() <= ALPHA / 2 for first in FIRST]
    return 0 if covers and all(rare) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
