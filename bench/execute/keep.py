"""Which models stay in a results folder when no stage needs them any more: ``[measure] keep`` of the suite."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from bench.compare.compare import compare
from bench.compare.pick import pick
from bench.plan.plan import Key, Plan, key_of
from bench.record.reading import Records


@dataclass(frozen=True)
class Kept:
    """Nodes whose checkpoints a run leaves: those ``wanted``, which run again where theirs are gone, and all that ``stay``
    until it is known which are."""

    wanted: frozenset[str] = frozenset()
    stay: frozenset[str] = frozenset()


NOTHING = Kept()


def kept(
    plan: Plan,
    records: Callable[[], Records],
    seeds: Collection[int] = (),
    names: Collection[str] = (),
    *,
    over: bool = False,
) -> Kept:
    """What the suite of `plan` has kept, by the `records` so far, which are read where it takes them; and all of `seeds`, and the recipes called `names`.

    Until the run is `over`, any recipe may still be the best one; and where none ended ok, all stay.
    """
    keep = plan.suite.measure.keep
    cells = [cell for cell in plan.cells if not cell.refused]
    chosen = {*names, *(keep if isinstance(keep, list) else plan.suite.recipes if keep == "all" else ())}
    best = _best(plan, records()) if keep == "best" else set()
    decided = {key[:2] for key in best}
    wanted = {cell.path[-1].id for cell in cells if cell.name in chosen or key_of(cell) in best}
    wanted |= {node.id for cell in cells for node in cell.path if node.seed in seeds}
    open_ = {cell.path[-1].id for cell in cells if keep == "best" and not (over and key_of(cell)[:2] in decided)}
    return Kept(frozenset(wanted), frozenset(wanted | open_))


def _best(plan: Plan, records: Records) -> set[Key]:
    """Of each model and task, the recipe that has the best quality, the mean over seeds, of those that ended ok for each."""
    picked = [pick(each, ()) for each in compare(records) if each.title == plan.suite.title]
    return {(each.comparison.model, each.comparison.task, each.row.name) for each in picked if each.row}
