"""What a comparison answers, as facts, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from bench.compare.compare import Comparison
from bench.compare.rows import Change, Figure, Row, Verdict
from bench.metrics.metric import Metric


@dataclass(frozen=True, slots=True)
class NoResult:
    """No recipe ended ok for every seed."""


@dataclass(frozen=True, slots=True)
class NoQuality:
    """Quality was not measured."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """No recipe that ended ok has ``metric``."""

    metric: Metric


@dataclass(frozen=True, slots=True)
class Uncompared:
    """Nothing is compared in ``metric``, which ``row`` has the best of; ``others`` have it too, and not the baseline."""

    metric: Metric
    row: Row
    others: int


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is shown of each recipe's ``metric`` beside the baseline's; ``margin`` is what does not matter, in its unit."""

    metric: Metric
    baseline: Row
    margin: float
    rows: Mapping[Verdict, tuple[Row, ...]]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The recipes that are not settled in ``metric`` and have an interval, each with its change."""

    metric: Metric
    rows: tuple[tuple[Row, Change], ...]


@dataclass(frozen=True, slots=True)
class Win:
    """The recipe that needs least of what ``metric`` counts, and less than the baseline; ``change`` says how much."""

    row: Row
    figure: Figure
    change: Change


@dataclass(frozen=True, slots=True)
class Cheapest:
    """Who needs least of what: among those that are as good as the baseline in ``quality``, or of all where it is None."""

    quality: Metric | None
    baseline: str
    wins: tuple[Win, ...]


@dataclass(frozen=True, slots=True)
class Trap:
    """Recipes that save what one metric counts and lose at another, which one might not expect: saving, then loss."""

    cheap: Metric
    slow: Metric
    baseline: str
    found: tuple[tuple[Row, Change, Change], ...]


@dataclass(frozen=True, slots=True)
class Slower:
    """Of ``of`` compressed models, those that answer more slowly than the model that they were made from, timed in turns."""

    latency: Metric
    of: int
    found: tuple[tuple[Row, Figure], ...]


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Of ``of`` recipes, those that did not end ok for every seed."""

    of: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class OneSeed:
    """A single seed ran; ``over_items``: there are intervals over test items all the same."""

    over_items: bool


Fact = (
    NoResult
    | NoQuality
    | Unscored
    | Uncompared
    | Verdicts
    | Cheapest
    | Unsettled
    | Trap
    | Slower
    | Incomplete
    | OneSeed
)


def answer(comparison: Comparison) -> Iterator[Fact]:
    """The facts that answer which recipe to use."""
    good = [row for row in comparison.rows if row.ok]
    if not good:
        yield NoResult()
    elif comparison.primary is None:
        yield NoQuality()
        yield from _cheapest(comparison, good)
    else:
        yield from _verdicts(comparison, good, comparison.primary)
    yield from _traps(comparison, good)
    yield from _slower(comparison, good)
    if bad := tuple(row for row in comparison.rows if not row.ok):
        yield Incomplete(len(comparison.rows), bad)
    if len(comparison.seeds) == 1 and good:
        yield OneSeed(any(each.covers == "items" for row in good for each in row.changes.values()))


def _verdicts(comparison: Comparison, good: Sequence[Row], primary: Metric) -> Iterator[Fact]:
    scored = [row for row in good if primary.name in row.figures]
    compared = [row for row in scored if primary.name in row.changes]
    baseline = next((row for row in comparison.rows if row.is_baseline), None)
    if not scored:
        yield Unscored(primary)
    elif baseline is None or not compared:
        yield Uncompared(primary, _first(scored, primary), len(scored) - 1)
    else:
        rows: dict[Verdict, tuple[Row, ...]] = {
            verdict: tuple(row for row in compared if row.changes[primary.name].verdict == verdict)
            for verdict in get_args(Verdict)
        }
        yield Verdicts(primary, baseline, compared[0].changes[primary.name].margin, rows)
        yield from _cheapest(comparison, [*rows["better"], *rows["same"]], primary)
        if unsettled := tuple(
            (row, each) for row in rows["not settled"] if (each := row.changes[primary.name]).settling
        ):
            yield Unsettled(primary, unsettled)


def _cheapest(comparison: Comparison, rows: Sequence[Row], quality: Metric | None = None) -> Iterator[Cheapest]:
    wins = tuple(win for metric in comparison.costs if (win := _win(metric, rows)))
    if wins:
        yield Cheapest(quality, comparison.baseline, wins)


def _win(metric: Metric, rows: Sequence[Row]) -> Win | None:
    """Who needs least of `metric`; None where nobody needs less than the baseline."""
    less = [row for row in rows if (found := row.changes.get(metric.name)) and _gains(found) and not _near(found)]
    if not less:
        return None
    first = _first(less, metric)
    return Win(first, first.figures[metric.name], first.changes[metric.name])


def _first(rows: Sequence[Row], metric: Metric) -> Row:
    sign = -1 if metric.better == "higher" else 1
    return min(rows, key=lambda row: sign * row.figures[metric.name].value)


def _traps(comparison: Comparison, good: Sequence[Row]) -> Iterator[Trap]:
    latency = comparison.main("latency")
    memory = next((each for each in comparison.metrics if each.name == "train_peak_bytes"), None)
    for cheap, slow in ((comparison.main("size"), latency), (memory, comparison.main("throughput"))):
        if cheap is None or slow is None:
            continue
        found = []
        for row in good:
            if slow is latency and comparison.gain and comparison.gain.name in row.figures:
                continue  # timed in turns, which says more
            saves, costs = row.changes.get(cheap.name), row.changes.get(slow.name)
            if saves and costs and _gains(saves) and _loses(costs):
                found.append((row, saves, costs))
        if found:
            yield Trap(cheap, slow, comparison.baseline, tuple(found))


def _slower(comparison: Comparison, good: Sequence[Row]) -> Iterator[Slower]:
    latency, gain = comparison.main("latency"), comparison.gain
    if latency is None or gain is None:
        return
    measured = [(row, row.figures[gain.name]) for row in good if gain.name in row.figures]
    slow = [
        (row, figure)
        for row, figure in measured
        # Without an interval, what is too near to 1 is not worth a sentence.
        if (figure.interval[1] < 1 if figure.interval else figure.value < 1 / 1.1)
    ]
    if slow:
        yield Slower(latency, len(measured), tuple(sorted(slow, key=lambda pair: pair[1].value)))


def _gains(found: Change) -> bool:
    return found.verdict == "better" or (found.interval is None and found.gains)


def _loses(found: Change) -> bool:
    return found.verdict == "worse" or (found.interval is None and not found.gains and not _near(found))


def _near(found: Change) -> bool:
    """Whether a ratio has no interval and is too near to 1 to be worth a sentence."""
    return found.interval is None and 1 / 1.1 < found.value < 1.1
