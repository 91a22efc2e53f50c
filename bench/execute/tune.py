"""Choose the learning rate of each recipe by trials of equal budget, before the recipes run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.compare import tuning
from bench.metrics import registry
from bench.metrics.units import counted
from bench.plan import plan
from bench.plan.plan import Cell, Key, Plan, key_of
from bench.record.reading import Records
from bench.record.schema import Trial, Tuned
from bench.suite.suite import Measure, Suite


@dataclass(frozen=True)
class Grid:
    """All trials: their plan, and the cell of each recipe and rate in it."""

    plan: Plan
    cells: Mapping[Key, Mapping[float, Cell]]


def grid(whole: Plan, names: Collection[str]) -> Grid:
    """The trials of the recipes called `names`, each with the first seed of the suite. A recipe that trains nothing has none."""
    suite = whole.suite
    assert suite.tune is not None
    tried = [
        (lr, key_of(cell), replace(cell, name=f"{cell.name}, lr {lr:g}", recipe=cell.recipe.with_lr(lr)))
        for cell in whole.cells
        if cell.name in names and cell.recipe.trains and not cell.refused and cell.seed == suite.seeds[0]
        for lr in suite.tune.lr
    ]
    planned = plan.of_cells(whole, _of_trials(suite), [cell for *_, cell in tried])
    cells: dict[Key, dict[float, Cell]] = {}
    for (lr, key, _), cell in zip(tried, planned.cells, strict=True):
        cells.setdefault(key, {})[lr] = cell
    return Grid(planned, cells)


def announced(trials: Grid) -> str:
    """What comes, in a sentence."""
    suite = trials.plan.suite
    assert suite.tune is not None
    return (
        f"Learning rates first: {counted(len(trials.cells), 'recipe')} × {counted(len(suite.tune.lr), 'rate')}, "
        f"{suite.budget.length()} each, by the validation split"
    )


def said(found: Sequence[Tuned], records: Records) -> Iterator[str]:
    """What was chosen, a sentence a recipe."""
    several = len({(each.model, each.task) for each in found}) > 1
    for each in found:
        where = f" ({each.model} on {each.task})" if several else ""
        yield f"{each.name}{where}: {tuning.of(each, registry.metric(each.metric), records)}"


def run(
    trials: Grid,
    records: Callable[[], Records],
    carry_out: Callable[[Plan, Collection[str]], object],
    *,
    fresh: bool,
) -> list[Tuned]:
    """Run the trials that are not recorded, and choose.

    Args:
        carry_out: runs what is not recorded of a plan, without the stages that it is given.
        fresh: whether what is recorded runs again, too.
    """
    carry_out(trials.plan, () if fresh else diverged(trials.plan, records()))
    return choose(trials, records())


def choose(trials: Grid, records: Records) -> list[Tuned]:
    """The best of each recipe's trials, as far as they are recorded: of equal ones that of the lowest rate."""
    found = []
    for (model, task, name), cells in trials.cells.items():
        first = next(iter(cells.values()))
        metric = registry.metric(first.subject.task.primary)
        sign = 1 if metric.better == "higher" else -1
        values = {lr: value for lr, cell in cells.items() if (value := _value(records, cell, metric.name)) is not None}
        found.append(
            Tuned(
                model=model,
                task=task,
                name=name,
                metric=metric.name,
                seed=first.seed,
                trials=[Trial(lr=lr, node=cell.path[-1].id) for lr, cell in cells.items()],
                lr=max(values, key=lambda lr: (sign * values[lr], -lr)) if values else None,
            )
        )
    return found


def tuned(whole: Plan, found: Sequence[Tuned]) -> Plan:
    """`whole` with the learning rates that were `found`."""
    rates = {(each.model, each.task, each.name): each.lr for each in found if each.lr is not None}
    cells = [
        replace(cell, recipe=cell.recipe.with_lr(rates[key_of(cell)])) if key_of(cell) in rates else cell
        for cell in whole.cells
    ]
    return plan.of_cells(whole, whole.suite, cells)


def diverged(trials: Plan, records: Records) -> set[str]:
    """The stages that diverged, and those that stand on one. That is what they have to say, so that none runs again."""
    found = {id_ for id_ in trials.nodes if id_ in records.nodes and records.nodes[id_].status == "diverged"}
    for node in trials.nodes.values():  # parents first
        if node.stands_on & found:
            found.add(node.id)
    return found


def _of_trials(suite: Suite) -> Suite:
    """`suite` as a trial has it: shorter where it says so, and its quality on the validation split is all that is measured."""
    assert suite.tune is not None
    budget = suite.budget
    if suite.tune.steps is not None:
        budget = budget.model_copy(update={"steps": suite.tune.steps, "epochs": None})
    measure = Measure(split="validation", references=False, memory=False, flops=False, size=False, latency=[], turns=0)
    return suite.model_copy(update={"budget": budget, "measure": measure})


def _value(records: Records, cell: Cell, metric: str) -> float | None:
    node = records.nodes.get(cell.path[-1].id)
    if node is None or node.status != "ok" or node.quality is None:
        return None
    return (node.quality.metrics or {}).get(metric)
