"""A run that adds seeds to the recipes that are not settled, until they are: ``methodbench run … --settle``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from bench.compare.compare import Comparison, compare
from bench.execute.run import Result
from bench.metrics.units import counted
from bench.plan.plan import Cell, Key, Plan, key_of
from bench.suite.suite import SuiteError

MOST = 12
"""Seeds of a recipe, where nothing else is said."""


def within(every: Sequence[int], suite: int, most: int | None) -> tuple[int, ...]:
    """Of `every` look that there may be, those of a run that gives a recipe `most` seeds, of a `suite` with so many.

    Raises:
        SuiteError: no look after the first is within `most`, or more than there are.
    """
    second, last = every[1], every[-1]
    if most is None:
        most = max(MOST, second)
    if most < suite:
        raise SuiteError(f"--max-seeds {most}: the suite has {counted(suite, 'seed')} already; give {second} to {last}")
    if not second <= most <= last:
        *middle, end = map(str, every)
        raise SuiteError(
            f"--max-seeds {most}: a run looks after {', '.join(middle)} and {end} seeds; give {second} to {last}"
        )
    return tuple(look for look in every if look <= most)


def seeds(of_suite: Sequence[int], number: int) -> list[int]:
    """`number` seeds: those of the suite, and then the smallest that it has not."""
    others = (seed for seed in itertools.count() if seed not in of_suite)
    return [*of_suite, *itertools.islice(others, number - len(of_suite))]


def run(
    whole: Plan,
    names: Collection[str],
    at: Sequence[int],
    recorded: Collection[str],
    carry_out: Callable[[Plan, Collection[str]], Result],
    tell: Callable[[str], None],
) -> Result:
    """Run the recipes called `names` in rounds, of which each is one look further for those that are not settled.

    Args:
        whole: has every cell that there may be, its seeds in the order in which they are added.
        at: the numbers of seeds to look at, of those that are planned.
        recorded: stages that ended ok before. What is not to run is compared with the seeds that it has.
        carry_out: runs what is not recorded of a part of the plan, without the stages that ran in a round before.
        tell: is told before each round which recipes get which seeds, and why.
    """
    order = list(dict.fromkeys(cell.seed for cell in whole.cells))
    place = {seed: number for number, seed in enumerate(order)}
    wanted = {key_of(cell): at[0] for cell in whole.cells}
    others = set(names) - {whole.suite.baseline_name}

    def asked(cell: Cell) -> bool:
        there = cell.name not in others and all(node.id in recorded for node in cell.path)
        return place[cell.seed] < (at[-1] if there else wanted[key_of(cell)])

    result = carry_out(whole.of(asked), ())
    for look, following in zip(at, [*at[1:], None], strict=True):
        comparisons = [each for each in compare(result.records.read_on()) if each.title == whole.suite.title]
        more: set[Key] = set()
        for comparison in comparisons:
            of = comparison.model, comparison.task
            found = _Found.after(comparison, [name for name in names if wanted[*of, name] == look])
            for text in found.said(order[look:following] if following else []):
                tell(f"{' on '.join(of)}: {text}" if len(comparisons) > 1 else text)
            if found.open:
                more |= {(*of, name) for name in (*found.open, comparison.baseline)}
        if not more or following is None:
            break
        wanted |= dict.fromkeys(more, following)
        result = result.with_next(carry_out(whole.of(asked), result.statuses))
    return result


@dataclass(frozen=True)
class _Found:
    """What a look found: how many of the recipes that ended ok are settled, and of those that had seeds for it the ``open``
    ones, which more seeds may settle, and the ``hopeless`` ones, which only more test items would."""

    quality: str
    baseline: str
    settled: int
    compared: int
    open: tuple[str, ...] = ()
    hopeless: tuple[str, ...] = ()

    @classmethod
    def after(cls, comparison: Comparison, names: Collection[str]) -> _Found:
        """Of a comparison in which the recipes called `names` had seeds for the look."""
        primary = comparison.primary
        changes = {
            row.name: row.changes[primary.name]
            for row in comparison.rows
            if primary and row.ok and primary.name in row.changes and comparison.rows[0].ok
        }
        unsettled = {name: each for name, each in changes.items() if each.verdict == "not settled"}
        hopeless = [name for name, each in unsettled.items() if each.settling and each.settling.needs_items]
        return cls(
            primary.title.lower() if primary else "quality",
            comparison.baseline,
            len(changes) - len(unsettled),
            len(changes),
            tuple(name for name in unsettled if name in names and name not in hopeless),
            tuple(name for name in hopeless if name in names),
        )

    def said(self, added: Sequence[int]) -> Iterator[str]:
        """Sentences for the user, of whom the open ones get the seeds that are `added`, if any are."""
        yield f"Settled in {self.quality}: {self.settled} of {counted(self.compared, 'recipe')}."
        if self.hopeless:
            yield f"Not settled, and no number of seeds would do, but more test items: {', '.join(self.hopeless)}."
        if self.open and added:
            which = f"seed{'' if len(added) == 1 else 's'} {', '.join(map(str, added))}"
            yield f"Not settled: {', '.join(self.open)}. They and the baseline {self.baseline} get {which}."
        elif self.open:
            yield f"Not settled with the most seeds that a recipe may have: {', '.join(self.open)}."
