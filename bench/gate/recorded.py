"""Checks of two sets of records: of what is counted, of quality, and, where all is stored, of timings and memory too.

A positive change is worse. What the base has and the head lacks is inconclusive; what the base lacks is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median

from bench.compare import stats
from bench.compare.compare import Comparison, Comparisons
from bench.compare.rows import Row, is_share
from bench.gate import decision
from bench.gate.decision import Estimate, Limits, as_change
from bench.gate.verdict import Check, Ended
from bench.metrics.metric import Metric
from bench.record.reading import Records
from bench.suite.gate import GateTable
from bench.suite.suite import SuiteError
from bench.suite.tolerance import Tolerance, share

TIMED = ("throughput", "latency", "time")
"""Families of what is timed."""


def checks(base: Records, head: Records, table: GateTable, *, tests: int, stored: bool = False) -> list[Check]:
    """A check for each recipe and each metric that `table` gates: of what is counted exactly, and of quality.

    `tests` is how many statistical tests the whole gate makes, these (see :func:`tests_of`) and others: they share
    ``table.alpha``. With `stored`, all that is gated is compared, over seeds.

    Raises:
        SuiteError: a tolerance is not in the unit of the metric that ranks the recipes.
    """
    level = table.alpha / max(tests, 1)
    margin = math.log1p(share(table.margin, "margin"))
    return [_check(case, level, margin) for case in _cases(base, head, table, stored)]


def tests_of(base: Records, head: Records, table: GateTable, *, stored: bool = False) -> int:  # noqa: PT028 (no test)
    """How many statistical tests :func:`checks` makes of these: those that turn out to be identical count as well."""
    return sum(not case.lacking and not case.settled for case in _cases(base, head, table, stored))


@dataclass(frozen=True)
class _Case:
    """One metric of one recipe, and its row on each side."""

    recipe: str
    metric: Metric
    tolerance: Tolerance
    base: Row | None
    head: Row | None

    @cached_property
    def seeds(self) -> list[int]:
        """Those that both sides have the metric for."""
        if not self.base or not self.head:
            return []
        ours, theirs = (row.figures.get(self.metric.name) for row in (self.head, self.base))
        return sorted(ours.by_seed.keys() & theirs.by_seed.keys()) if ours and theirs else []

    def values(self, row: Row | None) -> tuple[float, ...]:
        """Of each of ``seeds``."""
        figure = row.figures.get(self.metric.name) if row else None
        return tuple(figure.by_seed[seed] for seed in self.seeds) if figure else ()

    @cached_property
    def lacking(self) -> tuple[Ended, str] | None:
        """How the check ends, and why, where there is nothing to compare."""
        name = self.metric.name
        base_has, head_has = (bool(row and name in row.figures) for row in (self.base, self.head))
        if not base_has:
            who = "the base has no figure" if head_has else "neither side has a figure"
            return "skipped", f"{who}: {why_missing(self.base, name)}"
        if not head_has:
            return "inconclusive", f"the head has no figure, and the base has one: {why_missing(self.head, name)}"
        assert self.base is not None
        assert self.head is not None
        for ending in self.head.endings:
            if ending.status != "ok" and ending.seed in self.base.succeeded:
                why = f": {ending.reason}" if ending.reason else ""
                return "inconclusive", f"seed {ending.seed} ended {ending.status} in the head and ok in the base{why}"
        if not self.seeds:
            return "inconclusive", "the two sides have no seed in common"
        return None

    @cached_property
    def worse(self) -> list[float]:
        """How much worse the head is under each seed, in the metric's unit."""
        sign = 1 if self.metric.better == "lower" else -1
        return [sign * (head - base) for base, head in zip(self.values(self.base), self.values(self.head), strict=True)]

    @property
    def settled(self) -> bool:
        """Whether the values have no noise: counted, or memory that several seeds agree on, and alike for all seeds."""
        if not (self.metric.exact or (self.metric.family == "memory" and len(self.seeds) > 1)):
            return False
        alike = all(len(set(self.values(row))) == 1 for row in (self.base, self.head))
        return alike or len(set(self.worse)) == 1


def _cases(base: Records, head: Records, table: GateTable, stored: bool) -> Iterator[_Case]:
    sides = Comparisons(base), Comparisons(head)
    titled = any(len(side.titles) > 1 for side in sides)
    theirs, ours = ({(each.title if titled else "", each.model, each.task): each for each in side} for side in sides)
    subjects = list(dict.fromkeys([*theirs, *ours]))
    for subject in subjects:
        found = [each for each in (theirs.get(subject), ours.get(subject)) if each]
        where = "" if len(subjects) == 1 else f" ({', '.join(filter(None, subject))})"
        gated = list(_gated(found, table, stored))
        base_rows, head_rows = (
            {row.name: row for row in side[subject].rows} if subject in side else {} for side in (theirs, ours)
        )
        for name in dict.fromkeys([*base_rows, *head_rows]):
            rows = [side.get(name) for side in (base_rows, head_rows)]
            known = {figure for row in rows if row for figure in row.figures}
            # Not all recipes have all metrics, as some do not train; one without any is named once.
            for metric, tolerance in gated if known else gated[:1]:
                if metric.name in known or not known:
                    yield _Case(name + where, metric, tolerance, *rows)


def _gated(sides: Sequence[Comparison], table: GateTable, stored: bool) -> Iterator[tuple[Metric, Tolerance]]:
    primary = next((each.primary.name for each in sides if each.primary), None)
    for metric in {metric.name: metric for side in sides for metric in side.metrics}.values():
        if stored or metric.exact or metric.family == "quality":
            try:
                tolerance = table.tolerance_of(metric, primary)
            except ValueError as error:
                raise SuiteError(f"gate.{error}; `{metric.name}` ranks the recipes: gate it by that name") from None
            if tolerance is not None:
                yield metric, tolerance


def why_missing(row: Row | None, metric: str) -> str:
    """Why `row` has no figure of `metric`, in words."""
    if row is None:
        return "it has no such recipe"
    if not row.succeeded:
        reason = next((ending.reason for ending in row.endings if ending.reason), "")
        return f"the recipe is {row.status}" + (f": {reason}" if reason else "")
    return row.absent.get(metric) or "it was not measured"


# -- one check ---------------------------------------------------------------------------------------------


def _check(case: _Case, level: float, margin: float) -> Check:
    metric = case.metric
    timed = metric.family in TIMED and not metric.exact
    draft = Check(
        recipe=case.recipe,
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        better=metric.better,
        how="exact" if case.settled else "items" if metric.exact or metric.family == "quality" else "stored",
        outcome="inconclusive",
        scale=case.tolerance.scale,
        allowed=case.tolerance.text,
        tolerance=case.tolerance.value,
        base_values=case.values(case.base),
        head_values=case.values(case.head),
        clock="" if not timed else "cpu" if metric.name.startswith("cpu_") else "wall",
    )
    if case.lacking:
        outcome, reason = case.lacking
        return replace(draft, outcome=outcome, reason=reason)
    middle = fmean if metric.family == "quality" else median
    draft = replace(draft, base=middle(draft.base_values), head=middle(draft.head_values), pairs=len(case.seeds))
    if reason := _unfit(case):
        return replace(draft, reason=reason)
    if case.settled:
        return _exact(draft, case)
    if items := _by_items(case):
        return _over_items(draft, case, items, level)
    return _over_seeds(draft, case, level, margin if timed else 0.0)


def _unfit(case: _Case) -> str:
    """Why no verdict can come of the values; empty where one can."""
    values = [*case.values(case.base), *case.values(case.head)]
    if not all(map(math.isfinite, values)):
        return "a value is not finite"
    if case.metric.family != "quality" and min(values) < 0:
        return "a value is negative"
    if case.tolerance.scale == "ratio" and not case.settled and min(values) == 0:
        return "a value is 0, which has no ratio"
    if case.metric.family in TIMED:
        for side, row in (("base", case.base), ("head", case.head)):
            if row and (busy := row.figures[case.metric.name].contended):
                return f"the {side} was timed on a busy machine: {busy}"
    return ""


def _exact(draft: Check, case: _Case) -> Check:
    """Seed by seed, in the metric's unit: the seed that is furthest above its tolerance decides."""
    ratio = case.tolerance.scale == "ratio"
    allowed = [case.tolerance.value * (base if ratio else 1) for base in draft.base_values]
    worse, most, base = max(
        zip(case.worse, allowed, draft.base_values, strict=True), key=lambda each: each[0] - each[1]
    )
    # 1 % more than 1,000 is 1,010, whatever the last bit of 0.01 is.
    found = decision.exact([worse], Limits(0.0, most * (1 + 1e-12)))
    change = worse / base if ratio and base else worse if not ratio or not worse else None
    reason = "" if change is not None else "the base has 0, of which any more is too much"
    return replace(draft, outcome=found.outcome, change=change, reason=reason)


def _over_items(draft: Check, case: _Case, sides: tuple[Scores, Scores], level: float) -> Check:
    if len({len(each) for side in sides for each in side}) > 1:
        return replace(draft, reason="the two sides have different test items")
    draft = replace(draft, pairs=len(sides[0][0]))
    if draft.pairs < 2:
        return replace(draft, reason="there are fewer than two test items")
    found = stats.seeds_and_items(*(sides if case.metric.better == "higher" else sides[::-1]))
    draft = replace(draft, change=found.mean)
    if found.covers == "exact":
        return replace(draft, outcome="pass", interval=(0.0, 0.0))
    if found.covers == "nothing":
        return replace(draft, reason=FLAT)
    one_seed = "one seed: the error is of the choice of test items alone" if found.covers == "items" else ""
    estimate = Estimate(found.mean, found.error, found.freedom, draft.pairs)
    return _judged(draft, estimate, Limits(0.0, draft.tolerance), level, one_seed)


def _over_seeds(draft: Check, case: _Case, level: float, margin: float) -> Check:
    if not any(case.worse):
        return replace(draft, outcome="pass", change=0.0, interval=(0.0, 0.0))
    ratio = draft.scale == "ratio"
    differences = case.worse
    if ratio:
        sign = 1 if case.metric.better == "lower" else -1
        differences = [
            sign * math.log(head / base) for base, head in zip(draft.base_values, draft.head_values, strict=True)
        ]
    mean = fmean(differences)
    draft = replace(draft, change=as_change(mean, draft.scale))
    if len(differences) < 2:
        return replace(draft, reason="one seed shows no spread to judge by; run at least two")
    estimate = decision.estimate(differences)
    if estimate is None:
        return replace(draft, reason=FLAT)
    limits = Limits(margin, math.log1p(draft.tolerance)) if ratio else Limits(0.0, draft.tolerance)
    uncertain = "it differs between seeds, so it is no exact count" if case.metric.exact else ""
    return _judged(draft, estimate, limits, level, uncertain)


FLAT = "the difference does not vary at all, so there is no error to judge it by"


def _judged(draft: Check, estimate: Estimate, limits: Limits, level: float, remark: str) -> Check:
    found = decision.judge(estimate, limits, level)
    assert found.smallest is not None
    return replace(
        draft,
        outcome=found.outcome,
        interval=(as_change(estimate.bound(0.025), draft.scale), as_change(estimate.bound(0.975), draft.scale)),
        smallest=as_change(found.smallest, draft.scale),
        p_value=found.p_value,
        level=found.level,
        reason="; ".join(filter(None, (found.reason, remark))),
    )


Scores = list[Sequence[float]]
"""Of each seed, those of each test item."""


def _by_items(case: _Case) -> tuple[Scores, Scores] | None:
    """The scores of base and head, where the metric is their mean on both sides."""
    if case.metric.family != "quality" or case.tolerance.scale != "difference":
        return None
    sides: list[Scores] = []
    for row in (case.base, case.head):
        assert row is not None
        scores = [row.correct.get(seed) for seed in case.seeds]
        if not all(is_share(each, value) for each, value in zip(scores, case.values(row), strict=True)):
            return None
        sides.append([each for each in scores if each is not None])
    return sides[0], sides[1]
