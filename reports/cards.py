"""The decision cards of a page: for each need of a reader, the recipe that serves it best and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.compare.answer import Cheapest, Fact, Unsettled, Verdicts
from bench.compare.compare import Comparison
from bench.compare.rows import Change
from bench.metrics.units import counted, show
from reports import words


@dataclass(frozen=True, slots=True)
class Card:
    """A need, the recipe that serves it (empty where none does), a figure and a line about it."""

    need: str
    recipe: str
    figure: str
    about: str
    kind: str = "win"


def cards(comparison: Comparison, facts: Sequence[Fact]) -> Iterator[Card]:
    """The cards of a comparison, whose answer is `facts`, the most important first."""
    primary = comparison.primary
    for fact in facts:
        match fact:
            case Verdicts(metric, _, _, rows):
                yield from (
                    Card(f"Better {metric.title.lower()}", row.name, *_figure(row.changes[metric.name]))
                    for row in rows["better"][:3]
                )
            case Cheapest(quality, _, wins):
                for win in wins:
                    assert win.change.metric.summary, "Comparison.costs has only metrics with one"
                    best = win.change.metric.summary.best
                    among = f"Same or better {quality.title.lower()}, and it" if quality else "It"
                    value = show(win.figure.value, win.change.metric.unit)
                    busy = " ⚠ machine busy" if win.change.contended else ""
                    figure, about = _figure(win.change)
                    beside = "; ".join(filter(None, (about, f"{value}{busy}")))
                    yield Card(f"{among} {best}", win.row.name, figure, beside)
            case Unsettled(metric, rows):
                yield _unsettled(comparison, [change for _, change in rows])
    if primary and not any(isinstance(fact, Cheapest) for fact in facts):
        yield Card(
            f"Same or better {primary.title.lower()}, and cheaper",
            "",
            "none shown",
            f"No recipe is shown to be as good as {comparison.baseline} and to cost less.",
            "none",
        )


def _figure(change: Change) -> tuple[str, str]:
    return str(change), words.between(change) if change.interval else "no interval"


def _unsettled(comparison: Comparison, changes: list[Change]) -> Card:
    """How many are not settled, and how many of them how many more seeds would settle."""
    needed = sorted(
        change.settling.seeds - change.noise.seeds
        for change in changes
        if change.settling and change.settling.seeds and change.noise
    )
    within = [each for each in needed if each <= MORE]
    if within:
        about = f"{counted(within[-1], 'more seed')} would settle {len(within)} of them"
    elif needed:
        about = f"{counted(needed[0], 'more seed')} would settle the first of them"
    else:
        about = "more seeds would not settle them" if len(comparison.seeds) > 1 else "one seed cannot settle them"
    return Card("Not settled", "", str(len(changes)), about, "open")


MORE = 12
"""More seeds than this few people would run."""
