"""When a change is a regression: the statistics of the gate, over plain numbers. docs/gate.md says why these.

A *difference* is how much worse the head is than the base in one pair of measurements, taken side by side: positive is
worse. Of what is compared by ratio it is the logarithm of the ratio, of all else it is in the metric's unit.

A **regression** needs all of these, in a first block of pairs and again in a second, fresh one:

- Student's t test, one-sided, of the mean difference against the *margin*: changes below it do not matter;
- the exact sign-flip test, which does not ask for a normal distribution (Fisher 1935, The Design of Experiments);
- a mean difference above the *tolerance*, which is what the suite allows.

``alpha`` bounds the probability that anything that a gate tests is called a regression while nothing is worse than the
margin: it is divided over the looks (Bonferroni, which asks for nothing of how they depend on each other) and, at each
look, over everything that is tested (Holm 1979, "A simple sequentially rejective multiple test procedure").

A **pass** needs an upper bound of the difference below the tolerance, or, when all pairs are there, a smallest detectable
difference within the tolerance and no alarm. All else is **inconclusive**.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.compare import stats

Outcome = Literal["pass", "regression", "inconclusive"]

POWER = 0.90
"""A difference is called detectable that is found with this probability."""

EARLIEST = 6
"""Pairs before which nothing is decided: fewer do not tell their own spread."""

SIGN_FLIP = 0.01
"""The level of the sign-flip test, which needs seven pairs to reach it."""


@dataclass(frozen=True)
class Rule:
    """How a gate decides.

    ``alpha``: probability of any false alarm in the whole gate. ``first``: pairs at the first look; each later look has
    twice as many as the one before, the last has ``most``. ``confirm``: pairs of the second, fresh block.
    """

    alpha: float = 0.01
    first: int = 10
    most: int = 20
    confirm: int = 10

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of pairs at which an alarm can be raised."""
        found, at = [], min(self.first, self.most)
        while at < self.most:
            found.append(at)
            at *= 2
        return (*found, self.most)

    def level(self, tests: int) -> float:
        """What a p-value must be at most, at each look, where all of `tests` are still held against ``alpha``."""
        return self.alpha / len(self.looks) / tests


@dataclass(frozen=True)
class Limits:
    """What a metric is held against, on the scale of its differences: ``margin`` and ``tolerance``, both at least 0.

    ``counted`` is whether it may well not vary at all, as bytes do: then it is compared exactly.
    """

    margin: float
    tolerance: float
    counted: bool = False


@dataclass(frozen=True)
class Estimate:
    """A mean difference with its standard error and the error's degrees of freedom, from ``pairs`` pairs."""

    mean: float
    error: float
    freedom: float
    pairs: int

    def p_value(self, margin: float) -> float:
        """One-sided: the probability of such a mean or a larger one where the true difference is `margin`."""
        from scipy.special import stdtr

        return float(stdtr(self.freedom, -(self.mean - margin) / self.error))

    def bound(self, level: float) -> float:
        """The upper end of the one-sided interval of confidence `level`; the lower end for ``1 - level``."""
        return self.mean + quantile(self.freedom, level) * self.error

    def smallest(self, margin: float, level: float) -> float:
        """The smallest difference that a test of `level` against `margin` finds with probability :data:`POWER`."""
        return margin + (quantile(self.freedom, 1 - level) + quantile(self.freedom, POWER)) * self.error


@dataclass(frozen=True)
class Decision:
    """What came out for one metric.

    ``differences`` are those of the first block, ``fresh`` those of the second, empty where there was no alarm. The
    ``estimate`` is that of the second block where there is one, which no selection has touched. ``level`` is what its
    p-value had to be at most, and ``smallest`` the smallest difference that this finds. ``reason`` says why it is
    inconclusive, or what is remarkable.
    """

    outcome: Outcome
    differences: tuple[float, ...]
    fresh: tuple[float, ...] = ()
    estimate: Estimate | None = None
    p_value: float | None = None
    sign_flip: float | None = None
    level: float | None = None
    smallest: float | None = None
    reason: str = ""


@dataclass
class _Block:
    differences: list[float] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)


def estimate(differences: Sequence[float]) -> Estimate | None:
    """The mean of paired `differences`; None of fewer than two, or where they do not differ: a spread of 0 is no spread.

    Raises:
        ValueError: a difference is not finite.
    """
    if not all(map(math.isfinite, differences)):
        raise ValueError("a difference is not finite")
    n = len(differences)
    if n < 2 or max(differences) == min(differences):
        return None
    mean = math.fsum(differences) / n
    squares = math.fsum((value - mean) ** 2 for value in differences)
    return Estimate(mean, math.sqrt(squares / (n - 1) / n), n - 1, n)


def sign_flip(differences: Sequence[float], margin: float) -> float:
    """The exact one-sided sign-flip p-value of the mean of `differences` against `margin`.

    The share, of all ways to choose the signs of ``difference - margin``, that give a sum at least as large. The sums of
    two halves are put together, so that 40 pairs take 2²⁰ sums and not 2⁴⁰.
    """
    import numpy as np

    values = [value - margin for value in differences]
    seen = math.fsum(values)
    halves = []
    for half in (values[: len(values) // 2], values[len(values) // 2 :]):
        sums = np.zeros(1)
        for value in half:
            sums = np.concatenate([sums + value, sums - value])
        halves.append(np.sort(sums))
    first, second = halves
    rounding = 1e-12 * math.fsum(map(abs, values))
    as_large = int((len(second) - np.searchsorted(second, seen - rounding - first)).sum())
    return as_large / 2.0 ** len(values)


def holm(p_values: Mapping[str, float], alpha: float, tests: int | None = None) -> set[str]:
    """Those of `p_values` that are rejected with a family-wise error of `alpha`, out of `tests` in all."""
    others = 0 if tests is None else tests - len(p_values)
    adjusted = stats.holm([*p_values.values(), *[1.0] * others])
    return {name for name, p_value in zip(p_values, adjusted, strict=False) if p_value <= alpha}


Pair = Mapping[str, float]
"""The difference of each metric that was wanted, from one pair of measurements."""


def decide(
    limits: Mapping[str, Limits], rule: Rule, *, beside: int = 0
) -> Generator[frozenset[str], Pair, dict[str, Decision]]:
    """Ask for pairs until each of `limits` is decided. Yields the names that want one more pair and is sent their
    differences; returns the decisions. A name that is left out of what is sent could not be measured, and is given up.

    `beside` is how many other tests the gate makes, by :func:`judge`, which share ``rule.alpha``.
    """
    blocks = {name: _Block() for name in limits}
    decided: dict[str, Decision] = {}
    tests, looks = len(limits) + beside, rule.looks
    level = rule.alpha / len(looks)
    for look in looks:
        while wanted := frozenset(
            name for name, block in blocks.items() if name not in decided and len(block.differences) < look
        ):
            pair = yield wanted
            for name in wanted:
                block = blocks[name].differences
                if name not in pair:
                    decided[name] = Decision("inconclusive", tuple(block), reason="it could not be measured any more")
                    continue
                block.append(pair[name])
                if len(block) >= EARLIEST and not len(block) % 2 and len(block) < look:
                    found = estimate(block)
                    if found is None and limits[name].counted:
                        decided[name] = exact(block, limits[name])
                    elif found and found.bound(1 - rule.alpha) < limits[name].tolerance:
                        decided[name] = _decision("pass", block, limits[name], level / tests)
        last = look == looks[-1]
        p_values: dict[str, float] = {}
        for name, block in ((name, block.differences) for name, block in blocks.items() if name not in decided):
            found = estimate(block)
            if found is None and len(block) > 1 and limits[name].counted:
                decided[name] = exact(block, limits[name])
                continue
            if found is None:
                reason = "its times do not vary at all" if len(block) > 1 else "there are fewer than two pairs"
                decided[name] = Decision("inconclusive", tuple(block), reason=reason)
                continue
            flip = sign_flip(block, limits[name].margin)
            beyond = found.mean > limits[name].tolerance and flip <= max(SIGN_FLIP, 2.0 ** -len(block))
            p_values[name] = found.p_value(limits[name].margin) if beyond else 1.0
        alarms = holm(p_values, level, tests)
        for name in p_values.keys() - alarms:
            outcome = _without_alarm(blocks[name].differences, limits[name], rule, level / tests, last)
            if outcome is not None:
                decided[name] = outcome
        waiting = set(alarms)
        for _ in range(rule.confirm):
            if not waiting:
                break
            pair = yield frozenset(waiting)
            for name in list(waiting):
                if name in pair:
                    blocks[name].fresh.append(pair[name])
                else:
                    waiting.discard(name)
        for name in alarms:
            decided[name] = _confirmed(blocks[name], limits[name], rule)
    return decided


def _without_alarm(block: Sequence[float], limits: Limits, rule: Rule, level: float, last: bool) -> Decision | None:
    found = estimate(block)
    assert found is not None
    smallest = found.smallest(limits.margin, level)
    sharp = last and smallest <= limits.tolerance and found.mean <= limits.tolerance
    if sharp or found.bound(1 - rule.alpha) < limits.tolerance:
        return _decision("pass", block, limits, level)
    return _decision("inconclusive", block, limits, level, reason=WIDE) if last else None


WIDE = "the smallest detectable change is larger than the tolerance"


def _confirmed(block: _Block, limits: Limits, rule: Rule) -> Decision:
    """The second block alone decides: the first was chosen for looking bad."""
    found = estimate(block.fresh)
    if found is None or found.pairs < rule.confirm:
        return Decision(
            "inconclusive", tuple(block.differences), tuple(block.fresh), reason="an alarm was not repeated"
        )
    decision = _decision("inconclusive", block.differences, limits, rule.alpha, tuple(block.fresh))
    assert decision.p_value is not None
    assert decision.sign_flip is not None
    flips = decision.sign_flip <= max(SIGN_FLIP, 2.0**-found.pairs)
    if decision.p_value <= rule.alpha and flips and found.mean > limits.tolerance:
        return replace(decision, outcome="regression")
    if found.bound(1 - rule.alpha) < limits.tolerance:
        return replace(decision, outcome="pass", reason="a first alarm was not confirmed by fresh pairs")
    return replace(decision, reason="fresh pairs neither confirm an alarm nor clear it")


def _decision(
    outcome: Outcome,
    block: Sequence[float],
    limits: Limits,
    level: float,
    fresh: tuple[float, ...] = (),
    reason: str = "",
) -> Decision:
    of = fresh or tuple(block)
    found = estimate(of)
    assert found is not None
    return Decision(
        outcome,
        tuple(block),
        fresh,
        found,
        found.p_value(limits.margin),
        sign_flip(of, limits.margin),
        level,
        found.smallest(limits.margin, level),
        reason,
    )


def judge(found: Estimate, limits: Limits, level: float, confidence: float = 0.95) -> Decision:
    """The verdict on an estimate that does not grow by pairs, as that of quality over seeds and items.

    A regression is confidently worse than the margin, at `level`, and by more than the tolerance; a pass is confidently,
    at `confidence`, not worse by as much as the tolerance (non-inferiority).
    """
    p_value, smallest = found.p_value(limits.margin), found.smallest(limits.margin, level)
    outcome: Outcome = "inconclusive"
    if p_value <= level and found.mean > limits.tolerance:
        outcome = "regression"
    elif found.bound(confidence) < limits.tolerance:
        outcome = "pass"
    reason = WIDE if outcome == "inconclusive" else ""
    return Decision(outcome, (), estimate=found, p_value=p_value, level=level, smallest=smallest, reason=reason)


def exact(differences: Sequence[float], limits: Limits) -> Decision:
    """The verdict on what has no noise, whose `differences` are all one: above the tolerance it is a regression."""
    return Decision("regression" if differences[0] > limits.tolerance else "pass", tuple(differences))


def pairs_needed(deviation: float, limits: Limits, rule: Rule, tests: int) -> int | None:
    """Pairs after which the smallest detectable difference is within the tolerance, where differences have the standard
    deviation `deviation`; None where 1,000 are not enough."""
    for pairs in range(EARLIEST, 1001):
        if smallest_of(deviation, pairs, limits, rule.level(tests)) <= limits.tolerance:
            return pairs
    return None


def smallest_of(deviation: float, pairs: int, limits: Limits, level: float) -> float:
    """The smallest difference that `pairs` pairs find with probability :data:`POWER`, where differences have the standard
    deviation `deviation`."""
    return Estimate(0.0, deviation / math.sqrt(pairs), pairs - 1, pairs).smallest(limits.margin, level)


def as_change(difference: float, scale: Literal["ratio", "difference"]) -> float:
    """A difference as a share of the base where it is of a logarithm, and as it is otherwise."""
    # The end of an interval that is wider than numbers go is the largest number, or nearly.
    return math.expm1(min(difference, 700.0)) if scale == "ratio" else difference


def quantile(freedom: float, level: float) -> float:
    """Student's t that is not exceeded with probability `level`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, level))
