"""What a reader must know before trusting a comparison, as facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.rows import Row
from bench.compare.tuning import Tuning
from bench.record.schema import Environment


@dataclass(frozen=True, slots=True)
class Unread:
    """A line of the records is left out, as ``text`` says."""

    text: str


@dataclass(frozen=True, slots=True)
class MoreUnread:
    """And so many more lines."""

    lines: int


@dataclass(frozen=True, slots=True)
class Noted:
    """What the plan noted."""

    text: str


@dataclass(frozen=True, slots=True)
class AtEdge:
    """The learning rate that was chosen is the first or the last of the grid."""

    tuning: Tuning


@dataclass(frozen=True, slots=True)
class NoTrial:
    """No trial of a learning rate ended ok."""

    recipe: str


@dataclass(frozen=True, slots=True)
class NoBaseline:
    """The baseline is none of the recipes."""

    baseline: str


@dataclass(frozen=True, slots=True)
class FailedBaseline:
    """The baseline did not end ok for every seed."""

    row: Row


@dataclass(frozen=True, slots=True)
class Differing:
    """Records with several ``values`` of a setting that results depend on are compared."""

    setting: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A metric, or a family of metrics, could not be measured of ``recipes``, for one ``reason``."""

    metric: str
    reason: str
    recipes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unregistered:
    """``figures`` are recorded, and no metric of their names is registered here."""

    figures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OtherCards:
    """For some seed, ``recipes`` ran on another GPU than the baseline."""

    baseline: str
    recipes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotInTurns:
    """The training of ``recipes`` took no turns with the baseline's, for one ``reason``, while others' did."""

    reason: str
    recipes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WentOn:
    """Trainings of these ``seeds`` of a recipe, by its name, went on in another process, after so many steps."""

    seeds: Mapping[str, Mapping[int, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Timings of these ``seeds`` of a recipe, by its name, were taken while the machine was busy, and are in no figure."""

    seeds: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Busy:
    """Timings of ``recipes`` were taken while the machine was busy."""

    recipes: tuple[str, ...]


Doubt = (
    Unread
    | MoreUnread
    | Noted
    | AtEdge
    | NoTrial
    | NoBaseline
    | FailedBaseline
    | Differing
    | Unmeasured
    | Unregistered
    | OtherCards
    | NotInTurns
    | WentOn
    | LeftOut
    | Busy
)


def of_lines(texts: Sequence[str], most: int = 20) -> Iterator[Doubt]:
    """Of lines that were left out, the first `most`, and how many more."""
    yield from map(Unread, texts[:most])
    if len(texts) > most:
        yield MoreUnread(len(texts) - most)


def of_tunings(tunings: Iterable[Tuning]) -> Iterator[Doubt]:
    """Of how learning rates were chosen."""
    for tuning in tunings:
        if tuning.lr is None:
            yield NoTrial(tuning.recipe)
        elif tuning.edge:
            yield AtEdge(tuning)


def of_rows(rows: Sequence[Row], baseline: str, environments: Iterable[Mapping[str, Any]]) -> Iterator[Doubt]:
    """Of `rows`, which are compared with the one called `baseline`, and of the environments of their records."""
    base = next((row for row in rows if row.is_baseline), None)
    if base is None:
        yield NoBaseline(baseline)
    elif not base.ok:
        yield FailedBaseline(base)
    for setting, values in _settings(environments).items():
        if len(values) > 1:
            yield Differing(setting, tuple(sorted(values)))
    absent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for metric, reason in row.absent.items():
            absent.setdefault((metric, reason), []).append(row.name)
    for (metric, reason), recipes in absent.items():
        yield Unmeasured(metric, reason, tuple(recipes))
    if unknown := sorted({name for row in rows for name in row.unknown}):
        yield Unregistered(tuple(unknown))
    if elsewhere := tuple(row.name for row in rows if base is not None and _on_other_cards(row, base)):
        yield OtherCards(baseline, elsewhere)
    alone: dict[str, list[str]] = {}
    for row in rows:
        if row.not_in_turns:
            alone.setdefault(row.not_in_turns, []).append(row.name)
    for reason, recipes in alone.items():
        yield NotInTurns(reason, tuple(recipes))
    if went_on := {row.name: row.resumed for row in rows if row.resumed}:
        yield WentOn(went_on)
    if left_out := {row.name: row.left_out for row in rows if row.left_out}:
        yield LeftOut(left_out)
    if busy := tuple(row.name for row in rows if row.contended):
        yield Busy(busy)


def _on_other_cards(row: Row, base: Row) -> bool:
    """Whether the first card of some seed is another than the baseline's."""
    return any(row.cards[seed][:1] != base.cards[seed][:1] for seed in row.cards.keys() & base.cards.keys())


def _settings(environments: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Each setting that results depend on, with the values that occur. Versions that were not recorded
    don't count."""
    found: dict[str, set[str]] = {}
    distinct = {id(each): each for each in environments}.values()
    for whole in {repr(each): each for each in distinct}.values():
        machine = Environment(**whole).machine
        for name, value in machine.settings() if machine else ():
            found.setdefault(name, set()).add(str(value))
    return found
