"""What a comparison answers, as facts, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.compare.compare import Comparison
from bench.compare.rows import Change, Figure, Row, change
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
class Best:
    """The recipe that is best at ``metric``; ``others`` says how many there are beside it.

    ``ties`` are not to be told apart from it. ``unclear``: some have no interval to tell by.
    """

    metric: Metric
    row: Row
    others: int
    ties: tuple[Row, ...]
    unclear: bool


@dataclass(frozen=True, slots=True)
class Win:
    """The recipe that needs least of what ``metric`` counts; ``ties`` others cannot be told apart from it.

    ``than`` is its change against the best, where there is another best. ``busy``: a timing is not to be trusted.
    """

    metric: Metric
    row: Row
    figure: Figure
    than: Change | None
    ties: int
    unclear: bool
    busy: bool


@dataclass(frozen=True, slots=True)
class Cheapest:
    """Who needs least of what: among ``best`` and those that tie with it, or of all where it is None."""

    best: Row | None
    wins: tuple[Win, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """The best recipe and the baseline."""

    row: Row
    baseline: str
    change: Change


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


Fact = NoResult | NoQuality | Unscored | Best | Cheapest | Beside | Trap | Slower | Incomplete | OneSeed


def answer(comparison: Comparison) -> Iterator[Fact]:
    """The facts that answer which recipe to use."""
    good = [row for row in comparison.rows if row.ok]
    if not good:
        yield NoResult()
    elif comparison.primary is None:
        yield NoQuality()
        yield from _cheapest(comparison, good)
    else:
        yield from _best(comparison, good, comparison.primary)
    yield from _traps(comparison, good)
    yield from _slower(comparison, good)
    if bad := tuple(row for row in comparison.rows if not row.ok):
        yield Incomplete(len(comparison.rows), bad)
    if len(comparison.seeds) == 1 and good:
        yield OneSeed(any(each.covers == "items" for row in good for each in row.changes.values()))


def _best(comparison: Comparison, good: Sequence[Row], primary: Metric) -> Iterator[Fact]:
    scored = [row for row in good if primary.name in row.figures]
    if not scored:
        yield Unscored(primary)
        return
    best = _first(scored, primary)
    against = {row.name: change(primary, row, best) for row in scored if row is not best}
    ties = tuple(row for row in scored if (found := against.get(row.name)) and found.verdict == "tie")
    unclear = any(found is None or found.verdict == "unclear" for found in against.values())
    yield Best(primary, best, len(against), ties, unclear)
    if ties:
        yield from _cheapest(comparison, [best, *ties], best)
    if len(scored) > 1 and not best.is_baseline and (found := best.changes.get(primary.name)):
        yield Beside(best, comparison.baseline, found)


def _cheapest(comparison: Comparison, rows: Sequence[Row], best: Row | None = None) -> Iterator[Cheapest]:
    wins = tuple(win for metric in comparison.costs if (win := _win(metric, rows, best)))
    if wins:
        yield Cheapest(best, wins)


def _win(metric: Metric, rows: Sequence[Row], best: Row | None) -> Win | None:
    """Who needs least of `metric`; None where nobody can be told apart from the rest, or from the best."""
    have = [row for row in rows if metric.name in row.figures]
    if len(have) < 2:
        return None
    first = _first(have, metric)
    others = [found for row in have if row is not first and (found := change(metric, row, first))]
    than = change(metric, first, best) if best is not None and first is not best else None
    if all(map(_alike, others)) or (than is not None and _alike(than)):
        return None
    return Win(
        metric,
        first,
        first.figures[metric.name],
        than,
        ties=sum(map(_alike, others)),
        unclear=any(found.verdict == "unclear" for found in others),
        busy=any(found.contended for found in [*others, *([than] if than else [])]),
    )


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
    return found.verdict == "better" or (found.verdict == "unclear" and found.metric.improvement(found.value))


def _loses(found: Change) -> bool:
    far = not _alike(found) and not found.metric.improvement(found.value)
    return found.verdict == "worse" or (found.verdict == "unclear" and far)


def _alike(found: Change) -> bool:
    """Whether a ratio is a tie, or has no interval and is too near to 1 to be worth a sentence."""
    return found.verdict == "tie" or (found.verdict == "unclear" and 1 / 1.1 < found.value < 1.1)
