"""Intervals for few seeds. Pure functions over plain numbers.

Everything but :func:`of_median` is Student's t: on values, on paired differences, or on paired log-ratios.
There is no bootstrap: a percentile bootstrap of three points is wrong 19 times in 100 where it promises 5.
One value has no interval, and no function makes one up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Interval = tuple[float, float]
"""Lower and upper end."""

LEVEL = 0.95
"""Confidence of every interval in a report."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean (or a ratio), its interval and the number of values or pairs it comes from.

    ``interval`` is None where the spread is not known: one value, and no spread borrowed.
    """

    value: float
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Spread:
    """A standard deviation and its degrees of freedom."""

    sd: float
    freedom: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference, its standard error and the error's degrees of freedom.

    ``covers`` says what the error holds the noise of: "seeds and items", "seeds", "items", "exact" where nothing differs and
    there is no noise, "nothing" where all differ by the same, or one seed is all there is, which does not mean that there is
    none; then ``error`` is 0. ``fixed`` is the part of the squared error that more than the ``seeds`` do not lessen: of what the
    test items differ by for any seed.
    """

    mean: float
    error: float
    freedom: float
    covers: Literal["seeds and items", "seeds", "items", "nothing", "exact"]
    seeds: int
    fixed: float = 0.0

    @property
    def interval(self) -> Interval | None:
        """Student's t interval; None where the noise is not known."""
        return self.interval_at(LEVEL)

    def interval_at(self, level: float) -> Interval | None:
        """The same with another confidence."""
        if self.covers == "nothing":
            return None
        half = quantile(self.freedom, level) * self.error if self.error else 0.0
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float | None:
        """Student's t: the probability of a difference as large as this, either way, where there is none; None where the
        noise is not known."""
        if self.covers == "nothing":
            return None
        return float(p_value(self.mean, self.error, self.freedom)) if self.error else 1.0


def mean(values: Sequence[float], *, level: float = LEVEL, spread: Spread | None = None) -> Estimate:
    """The mean of `values` with Student's t interval (Student 1908, "The probable error of a mean").

    `spread` replaces the values' own standard deviation by one that is better known, see :func:`pooled_sd`;
    then one value has an interval too. In the unit of the values.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not values:
        raise ValueError("no values")
    if not all(map(math.isfinite, values)):
        raise ValueError("a value is not finite")
    n = len(values)
    # fsum over n can miss the common value of equal numbers by a rounding, and so show a difference.
    middle = values[0] if min(values) == max(values) else math.fsum(values) / n
    if spread is None and n > 1:
        spread = Spread(math.sqrt(_squares(values, middle) / (n - 1)), n - 1)
    if spread is None:
        return Estimate(middle, None, n)
    half = quantile(spread.freedom, level) * spread.sd / math.sqrt(n)
    return Estimate(middle, (middle - half, middle + half), n)


def difference(
    ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL, spread: Spread | None = None
) -> Estimate:
    """The mean of ``ours - theirs``, paired by position (by seed), with the t interval of the paired
    differences.

    `spread` is that of paired differences. In the unit of the values.

    Raises:
        ValueError: lengths differ, there are no pairs, or a value is not finite.
    """
    return mean([a - b for a, b in zip(ours, theirs, strict=True)], level=level, spread=spread)


def ratio(
    ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL, spread: Spread | None = None
) -> Estimate:
    """The geometric mean of ``ours / theirs``, paired by position, with the t interval of the log-ratios
    put back.

    On the log scale twice as fast and half as fast lie equally far from 1, and noise that multiplies (a
    busy machine) becomes noise that adds. Fleming and Wallace 1986, "How not to lie with statistics", on
    the geometric mean; `spread` is that of log-ratios.

    Raises:
        ValueError: lengths differ, there are no pairs, or a value is not finite and above 0.
    """
    if min((*ours, *theirs), default=1.0) <= 0:
        raise ValueError("a ratio needs values above 0")
    ours, theirs = ([math.log(value) for value in side] for side in (ours, theirs))
    return _from_log(difference(ours, theirs, level=level, spread=spread))


def geometric_mean(values: Sequence[float], *, level: float = LEVEL) -> Estimate:
    """The geometric mean of `values` with the t interval of their logarithms put back. In the unit of the values.

    The ratio of the geometric means of two sides is the geometric mean of their ratios, which is :func:`ratio`.

    Raises:
        ValueError: there are no values, or one is not finite and above 0.
    """
    if min(values, default=1.0) <= 0:
        raise ValueError("a geometric mean needs values above 0")
    if values and min(values) == max(values):  # which a logarithm and back would miss by a rounding
        return mean(values, level=level)
    return _from_log(mean([math.log(value) for value in values], level=level))


def _from_log(log: Estimate) -> Estimate:
    return Estimate(math.exp(log.value), log.interval and (_exp(log.interval[0]), _exp(log.interval[1])), log.n)


def _exp(value: float) -> float:
    """The end of an interval that is wider than numbers go is the largest number, or nearly."""
    return math.exp(min(value, 700.0))


def of_median(values: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """The interval of the median of `values`, from one of them to another: the narrowest pair of order statistics, as many
    from each end, that holds the median with probability `level` whatever the distribution. Conover, Practical
    Nonparametric Statistics, on quantiles. None where there are too few, fewer than six at 95 %. In the unit of the values.
    """
    n, outside, rank = len(values), 0.0, 0
    while (outside := outside + 2 * math.comb(n, rank) / 2**n) <= 1 - level:
        rank += 1
    ordered = sorted(values)
    return (ordered[rank - 1], ordered[n - rank]) if rank else None


def seeds_alone(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """The mean of ``ours - theirs``, paired by position (by seed), with the error of the paired differences.

    Raises:
        ValueError: lengths differ, there are no pairs, or a value is not finite.
    """
    each = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = mean(each)
    freedom = len(each) - 1
    if not any(each) and freedom:
        return Difference(0.0, 0.0, freedom, "exact", len(each))
    error = math.sqrt(_squares(each, found.value) / freedom / len(each)) if freedom else 0.0
    # Seeds that all differ by the same show no noise; that does not mean that there is none.
    flat = error <= 1e-9 * abs(found.value)
    return Difference(found.value, 0.0 if flat else error, freedom, "nothing" if flat else "seeds", len(each))


def seeds_and_items(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Difference:
    """The mean of ``ours - theirs`` over seeds and test items, with an error that holds the noise of both.

    `ours` and `theirs` hold, for each seed, the score of each item, such as 1 where it is right and 0 where not; the error
    is that of :func:`two_way`. One seed leaves the items alone. With 0/1 items of one seed it is McNemar's setting (McNemar
    1947) in the form of a difference with its error (Agresti, Categorical Data Analysis, on matched pairs).

    Raises:
        ValueError: numbers of seeds or items differ, there are fewer than two items, or a score is not finite.
    """
    import numpy as np

    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.ndim != 2 or not a.shape[0] or a.shape[1] < 2:
        raise ValueError("scores must be of the same two or more items on both sides")
    each = a - b
    if not np.isfinite(each).all():
        raise ValueError("a score is not finite")
    seeds, items = each.shape
    if each.min() == each.max():
        return Difference(float(each[0, 0]), 0.0, items - 1, "nothing" if each.any() else "exact", seeds)
    found = two_way(each)
    if found.error <= 1e-12 * math.sqrt(np.square(each).mean()):  # what some items and seeds win, others lose exactly
        return Difference(float(found.mean), 0.0, items - 1, "nothing", seeds)
    covers: Literal["seeds and items", "items"] = "seeds and items" if seeds > 1 else "items"
    return Difference(float(found.mean), float(found.error), float(found.freedom), covers, seeds, float(found.fixed))


class TwoWay(NamedTuple):
    """Arrays of mean differences, their standard errors, the errors' degrees of freedom, and what of the squared errors more
    seeds would not lessen."""

    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    freedom: NDArray[np.float64]
    fixed: NDArray[np.float64]


def two_way(each: NDArray[Any]) -> TwoWay:
    """The means of differences over seeds and items, with errors that hold the noise of both. `each`: (..., seeds, items).

    A difference is ``D[s, i] = mu + a[s] + b[i] + e[s, i]``, with random effects of seeds and of items. The variance of the
    mean is (MS_seeds + MS_items - MS_rest) / (seeds * items), of the mean squares of the two-way analysis of variance
    (Scheffé 1959, The Analysis of Variance, on random effects), in which the seeds' own part is at least 0.

    The freedom is not Satterthwaite's (1946), who weighs the reciprocals of ``seeds - 1`` and ``items - 1`` by squared shares
    of the variance: the shares themselves are the weights, and MS_seeds counts whole. That errs on the safe side, since three
    seeds tell their own spread badly. Where 95 % are promised, Satterthwaite's covers 92 % for some recipes with three seeds,
    and this at least 94 %; it covers more where the noise is that of single items (docs/statistics.md). With two seeds it
    covers 91 %. One seed leaves the items alone. Where nothing differs, the error is 0.
    """
    import numpy as np

    seeds, items = each.shape[-2:]
    by_seed, by_item = each.mean(axis=-1, dtype=float), each.mean(axis=-2, dtype=float)
    middle = by_seed.mean(axis=-1)
    of_items = by_item.var(axis=-1, ddof=1) / items
    of_seeds = by_seed.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros_like(of_items)
    squares = np.square(each).mean(axis=(-2, -1), dtype=float) + np.square(middle)
    rest = squares - np.square(by_seed).mean(axis=-1) - np.square(by_item).mean(axis=-1)
    of_rest = np.maximum(rest, 0.0) / (max(seeds - 1, 1) * (items - 1))
    variance = np.maximum(of_seeds - of_rest, 0.0) + of_items
    share = np.minimum(np.divide(of_seeds, variance, out=np.zeros_like(variance), where=variance > 0), 1.0)
    freedom = 1 / (share / max(seeds - 1, 1) + (1 - share) / (items - 1))
    return TwoWay(middle, np.sqrt(variance), freedom, np.maximum(of_items - of_rest, 0.0))


def p_value(mean: ArrayLike, error: ArrayLike, freedom: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of Student's t, element by element; `error` is above 0."""
    import numpy as np
    from scipy.special import stdtr

    found: NDArray[np.float64] = 2 * stdtr(freedom, -np.abs(mean) / np.asarray(error))
    return found


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p-values (..., tests), adjusted for how many they are: those up to a level α are rejected, and the chance that any of
    them is wrong is at most α, however the tests depend on each other (Holm 1979, "A simple sequentially rejective multiple
    test procedure").
    """
    import numpy as np

    plain = np.asarray(p, dtype=float)
    order = plain.argsort(axis=-1)
    stepped = np.take_along_axis(plain, order, axis=-1) * np.arange(plain.shape[-1], 0, -1)
    found = np.empty_like(plain)
    np.put_along_axis(found, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0), axis=-1)
    return found


@dataclass(frozen=True, slots=True)
class Settling:
    """What keeps a difference from being settled, and what would settle it.

    ``detectable`` is the smallest difference that runs like this one show :data:`POWER` of the time, in the metric's unit.
    As often, ``seeds`` seeds would settle this one, if it is as large as it looks and the seeds differ as they did; None
    where :data:`MOST_SEEDS` would not, or one seed does not say how seeds differ. ``needs_items`` says that no number of
    seeds would: if it is as large as it looks, the choice of test items alone leaves it open.
    """

    detectable: float
    seeds: int | None
    needs_items: bool = False


POWER = 0.8
MOST_SEEDS = 100


def settling(found: Difference, margin: float, alpha: float, level: float = LEVEL) -> Settling:
    """What would show that there is a difference, at level `alpha`, or that it is inside `margin`, with `level` confidence."""
    import numpy as np

    now = float(_detectable(found.error, found.freedom, alpha))
    if found.covers == "items":
        return Settling(now, None)
    seeds = np.arange(found.seeds + 1, MOST_SEEDS + 1)
    lessened = max(found.error**2 - found.fixed, 1e-9 * found.error**2) * found.seeds / seeds
    variance = lessened + found.fixed
    error, freedom = np.sqrt(variance), (seeds - 1) * variance / lessened  # the items' freedom is large, and left out
    differs = _detectable(error, freedom, alpha) <= abs(found.mean)
    same = abs(found.mean) + _detectable(error, freedom, 1 - level) <= margin
    settles = seeds[differs | same]
    never = bool(left_open(found.mean, found.fixed, margin, alpha, level))
    return Settling(now, int(settles[0]) if settles.size else None, never)


def left_open(
    mean: ArrayLike, fixed: ArrayLike, margin: float, alpha: ArrayLike, level: float = LEVEL
) -> NDArray[np.bool_]:
    """Whether no number of seeds would settle a difference as large as `mean`, element by element.

    Its error would be the root of `fixed`: neither would it differ at level `alpha`, nor its interval lie inside `margin`.
    """
    import numpy as np
    from scipy.special import ndtri

    error, size = np.sqrt(fixed), np.abs(mean)
    differs = size >= -ndtri(np.asarray(alpha) / 2) * error
    found: NDArray[np.bool_] = ~differs & (size - ndtri((1 - level) / 2) * error > margin)
    return found


def _detectable(error: Any, freedom: Any, alpha: float) -> Any:
    """The difference that is found :data:`POWER` of the time at level `alpha`, either way, element by element."""
    from scipy.special import stdtrit

    return (stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, POWER)) * error


def pooled_sd(groups: Iterable[Sequence[float]]) -> Spread | None:
    """The standard deviation that `groups` share, each about its own mean, with its degrees of freedom.

    For small-n intervals to borrow: 3 seeds alone have t = 4.3, 3 seeds with the spread of 20 calibration
    pairs t = 2.1. Right only where the groups do have one spread, as repeated runs of the same thing have;
    different recipes need not. Snedecor and Cochran, Statistical Methods, on pooled variances. None where
    no group has two values.
    """
    squares, freedom = 0.0, 0
    for group in groups:
        if len(group) > 1:
            squares += _squares(group, math.fsum(group) / len(group))
            freedom += len(group) - 1
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


@functools.lru_cache(maxsize=256)
def quantile(freedom: float, level: float = LEVEL) -> float:
    """Student's t with `freedom` degrees of freedom that is exceeded, either way, with probability ``1 -
    level``."""
    from scipy.special import stdtrit  # a fraction of the import of scipy.stats

    return float(stdtrit(freedom, (1 + level) / 2))


def _squares(values: Sequence[float], middle: float) -> float:
    return math.fsum((value - middle) * (value - middle) for value in values)
