"""The rows of a comparison: each recipe's figures, and how they differ from another's.

Quality compares by differences, everything else by ratios on the log scale, both paired by seed. What a verdict says is
shown: that two are the same as well as that they differ, and what is not shown is not settled.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.compare import stats
from bench.compare.stats import Difference, Interval, Settling
from bench.metrics.metric import Metric
from bench.metrics.units import show
from bench.record.schema import STATUSES, Status
from bench.suite.margins import Margins

Verdict = Literal["better", "worse", "same", "not settled"]
"""``same``: the interval lies inside the margin, so that a difference, if there is one, does not matter. ``not settled``: it
shows neither this nor a difference, or there is none."""

DEFAULT_MARGINS = Margins()

NOT_RUN: Literal["not run"] = "not run"
"""How a recipe ended of which a stage has no record."""

Ended = Status | Literal["not run"]

ENDS: tuple[Ended, ...] = (STATUSES[0], NOT_RUN, *STATUSES[1:])
"""From the best to the worst: a row's status is its worst cell's."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one recipe: the mean over seeds, its t interval (None for one seed) and each seed's value.

    The mean is geometric where the metric compares by ratios and all values are above 0, so that the ratio of two figures of
    the same seeds is the mean ratio. Timings that were taken while the machine was busy are no part of it: ``left_out`` are
    their seeds. Where that is true of all, ``contended`` says why they are not to be trusted.
    """

    metric: Metric
    value: float
    interval: Interval | None
    by_seed: Mapping[int, float]
    contended: str | None = None
    left_out: tuple[int, ...] = ()

    def __str__(self) -> str:
        low, high = self.interval or (self.value, self.value)
        half = (high - low) / 2
        text, margin = show(self.value, self.metric.unit), show(half, self.metric.unit)
        if half <= 5e-4 * abs(self.value) or text.startswith("≈"):
            return text
        if half > 1.1 * (self.value - low):  # the value lies too far from the middle for one number
            return f"{text} ({show(low, self.metric.unit)} to {show(high, self.metric.unit)})"
        number, _, unit = text.partition(" ")
        # A unit that both have is said once: 335 ± 8.60 MB.
        return f"{number} ± {margin}" if unit and margin.endswith(f" {unit}") else f"{text} ± {margin}"


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one recipe against another's: a difference for quality, a ratio for the rest.

    ``covers`` says what the interval holds the noise of: ``seeds``, ``items`` (the choice of test items),
    ``seeds and items``, ``nothing`` where there is no interval, ``exact`` where there is no noise. ``margin`` is what does not
    matter: in the metric's unit, or as a share where this is a ratio. ``noise`` is the difference with its error; None of a
    ratio. ``adjusted_p`` is ``p``, adjusted for how many recipes are compared: of the metric that ranks the recipes it decides
    whether one is better or worse. All other metrics are exploratory, and have none. ``settling`` says what would settle what
    is not, of that metric.
    """

    metric: Metric
    value: float
    interval: Interval | None
    covers: Literal["seeds", "items", "seeds and items", "nothing", "exact"]
    margin: float
    contended: str | None = None
    noise: Difference | None = None
    adjusted_p: float | None = None
    settling: Settling | None = None

    @property
    def p(self) -> float | None:
        """The probability of a difference as large as this where there is none; None of a ratio, and without an interval."""
        return None if self.noise is None else self.noise.p

    @property
    def adjusted(self) -> bool:
        """Whether better and worse hold for all recipes of the comparison together."""
        return self.adjusted_p is not None

    @property
    def kind(self) -> Literal["difference", "ratio"]:
        """How the two are compared."""
        return kind_of(self.metric)

    @property
    def verdict(self) -> Verdict:
        """What the interval shows, in the metric's direction."""
        if self.interval is None:
            return "not settled"
        low, high = self.interval
        least, most = (
            (-self.margin, self.margin) if self.kind == "difference" else (1 / (1 + self.margin), 1 + self.margin)
        )
        if least - 1e-12 <= low and high <= most + 1e-12:
            return "same"
        if self.adjusted_p is None:
            differs = not low - 1e-12 <= self._none <= high + 1e-12
        else:
            differs = self.adjusted_p <= 1 - stats.LEVEL
        if not differs:
            return "not settled"
        return "better" if self.gains else "worse"

    @property
    def gains(self) -> bool:
        """Whether the value lies on the better side, whatever the interval."""
        return self.value > self._none if self.metric.better == "higher" else self.value < self._none

    @property
    def _none(self) -> float:
        return 0.0 if self.kind == "difference" else 1.0

    @property
    def ends(self) -> tuple[str, str] | None:
        """The ends of the interval as text; None where there is none, or it has no width that is seen."""
        if self.interval is None or _flat(self.interval, self.value):
            return None
        low, high = (self._text(end, fine=True) for end in self.interval)
        return None if low == high == self._text(self.value) else (low, high)

    def __str__(self) -> str:
        return self._text(self.value) + ("" if self.kind == "difference" else "×")

    def _text(self, value: float, *, fine: bool = False) -> str:
        if self.kind == "ratio":
            if fine and 0 < abs(value - 1) < 0.005:
                return f"{value:.4f}"  # else an end near 1 does not show on which side it lies
            return f"{value:.2f}" if 0.095 <= value < 99.5 else f"{value:.3g}" if value < 1e6 else f"{value:.1e}"
        sign = "+" if value > 0 else "−" if value < 0 else "±"
        return sign + show(abs(value), self.metric.unit)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one recipe ended for one seed: the stage that went wrong and why, or ``ok``."""

    seed: int
    status: Ended
    stage: str = ""
    reason: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim of a method over all seeds: held in ``held`` of ``of``; ``seen`` in the first that failed,
    or ran."""

    stage: str
    method: str
    text: str
    seen: str
    held: int
    of: int


@dataclass(frozen=True)
class Row:
    """One recipe of a comparison.

    ``training`` holds the ids of the records that trained: rows with the same ones share their loss curves. ``clock``
    has, for each seed, the seconds and the tokens of training up to the end of each step; ``validation``, for each seed, the
    scores on the validation split after so many steps of all trainings. ``phases`` are the mean seconds
    of what all stages did, by name. ``arguments`` is each stage with all its arguments, where they are recorded. ``chain``
    has each stage with the quality figures of the model after it; ``processes`` the figures of each of several that
    trained together in the last training. ``not_in_turns`` says why its trainings took no turns with the baseline's, where
    others did; empty where it did. ``resumed`` has, for each seed of which a training went on in another process, after how
    many steps. ``absent`` says why a metric has no figure for some seed, by its name;
    ``unknown`` names figures that are recorded and that no metric is registered for. ``cards`` are the GPUs of each
    seed's last stage, by their ids. ``correct`` has the score of each test item for each seed, and ``items`` the same of other
    data by the metric's name.
    """

    name: str
    recipe: str
    is_baseline: bool
    endings: tuple[Ending, ...]
    figures: Mapping[str, Figure]
    losses: Mapping[int, Sequence[float]]
    clock: Mapping[int, tuple[Sequence[float], Sequence[float]]]
    phases: Mapping[str, float]
    training: tuple[str, ...]
    evidence: tuple[Proof, ...]
    correct: Mapping[int, Sequence[float]] = field(repr=False)
    items: Mapping[str, Mapping[int, Sequence[float]]] = field(default_factory=dict, repr=False)
    validation: Mapping[int, Sequence[tuple[int, Mapping[str, float | None]]]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    chain: tuple[tuple[str, Mapping[str, Figure]], ...] = ()
    processes: tuple[Mapping[str, Figure], ...] = ()
    not_in_turns: str = ""
    resumed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    cards: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were asked for."""
        return tuple(ending.seed for ending in self.endings)

    @property
    def succeeded(self) -> tuple[int, ...]:
        """The seeds that ended ok, whose values the figures hold."""
        return tuple(ending.seed for ending in self.endings if ending.status == "ok")

    @property
    def ok(self) -> bool:
        """Whether every seed ended ok."""
        return self.status == "ok"

    @property
    def status(self) -> Ended:
        """``ok`` if every seed is, else the worst seed's."""
        return max((ending.status for ending in self.endings), key=ENDS.index, default=NOT_RUN)

    @property
    def failures(self) -> list[tuple[Ending, list[int]]]:
        """Each way in which seeds did not end ok, with those seeds."""
        found: dict[Ending, list[int]] = {}
        for ending in self.endings:
            if ending.status != "ok":
                found.setdefault(replace(ending, seed=-1), []).append(ending.seed)
        return list(found.items())

    @property
    def contended(self) -> list[str]:
        """Why timings are not to be trusted, each reason once."""
        return list(dict.fromkeys(figure.contended for figure in self.figures.values() if figure.contended))

    @property
    def left_out(self) -> tuple[int, ...]:
        """The seeds of which a timing is left out of a figure."""
        return tuple(sorted({seed for figure in self.figures.values() for seed in figure.left_out}))


@dataclass(frozen=True, slots=True)
class Reference:
    """What quality is to be seen beside: no recipe, so it is neither compared nor ranked.

    ``name`` is "chance" or "untrained"; ``about`` says in a sentence what that is; ``figures`` are of quality alone, by name.
    """

    name: str
    about: str
    figures: Mapping[str, Figure]


def change(
    metric: Metric,
    ours: Row,
    theirs: Row,
    margins: Margins = DEFAULT_MARGINS,
    among: Collection[int] | None = None,
    level: float = stats.LEVEL,
) -> Change | None:
    """`ours` against `theirs`, paired over the seeds that both have, `among` these alone; None where they share none, or have
    no ratio. `level` is the confidence of a difference's interval.

    A quality difference must hold against other seeds and, where the metric is the mean of the items' scores, against
    other test items too: its error holds the noise of both. One seed leaves the items alone.
    """
    mine, other = ours.figures.get(metric.name), theirs.figures.get(metric.name)
    seeds = sorted(mine.by_seed.keys() & other.by_seed.keys()) if mine and other else []
    if among is not None:
        seeds = [seed for seed in seeds if seed in among]
    if not mine or not other or not seeds:
        return None
    a, b = [mine.by_seed[seed] for seed in seeds], [other.by_seed[seed] for seed in seeds]
    margin = margins.of(metric, math.fsum(b) / len(b))
    contended = mine.contended or (other.contended and f"{theirs.name}: {other.contended}")
    if kind_of(metric) == "difference":
        scores = _scores(metric, ours, seeds), _scores(metric, theirs, seeds)
        try:
            noise = stats.seeds_and_items(*scores)
        except ValueError:  # no scores, or of different items
            noise = stats.seeds_alone(a, b)
        interval = noise.interval_at(level)
        return Change(metric, stats.difference(a, b).value, interval, noise.covers, margin, contended, noise)
    if min(*a, *b) <= 0:
        return Change(metric, 1.0, (1.0, 1.0), "exact", margin, contended) if a == b else None
    found = stats.ratio(a, b)
    if found.interval is None and metric.exact:
        return Change(metric, found.value, (found.value, found.value), "exact", margin, contended)
    return Change(metric, found.value, found.interval, "seeds" if found.interval else "nothing", margin, contended)


def _scores(metric: Metric, row: Row, seeds: Sequence[int]) -> list[Sequence[float]]:
    """The score of each item for each of `seeds`; empty where `metric` is not their mean."""
    of = row.items.get(metric.name, row.correct)
    found = [of.get(seed, ()) for seed in seeds]
    values = row.figures[metric.name].by_seed
    return found if all(is_share(each, values[seed]) for seed, each in zip(seeds, found, strict=True)) else []


def is_share(correct: Sequence[float] | None, value: float) -> bool:
    """Whether `value` is the mean of the items' scores, as accuracy is; of losses, `correct` holds what it is not."""
    return bool(correct) and math.isclose(sum(correct) / len(correct), value, rel_tol=1e-6, abs_tol=1e-6)  # type: ignore[arg-type]


def kind_of(metric: Metric) -> Literal["difference", "ratio"]:
    """How two figures of `metric` are compared."""
    return "difference" if metric.family == "quality" else "ratio"


def _flat(interval: Interval, value: float) -> bool:
    return interval[1] - interval[0] <= 1e-9 * abs(value)
