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

    def names(self, recipes: Collection[str]) -> set[str]:
        """What the trials of some recipes are called in the plan."""
        return {cell.name for (*_, name), cells in self.cells.items() if name in recipes for cell in cells.values()}


def grid(whole: Plan) -> Grid:
    """The trials of all recipes, each with the first seed of the suite. One that trains nothing has none."""
    suite = whole.suite
    assert suite.tune is not None
    tried = [
        (lr, key_of(cell), replace(cell, name=f"{cell.name}, lr {lr:g}", recipe=cell.recipe.with_lr(lr)))
        for cell in whole.cells
        if cell.recipe.trains and not cell.refused and cell.seed == suite.seeds[0]
        for lr in suite.tune.lr
    ]
    planned = plan.of_cells(whole, _of_trials(suite), [cell for *_, cell in tried])
    cells: dict[Key, dict[float, Cell]] = {}
    for (lr, key, _), cell in zip(tried, planned.cells, strict=True):
        cells.setdefault(key, {})[lr] = cell
    return Grid(planned, cells)


def announced(trials: Grid, names: Collection[str]) -> str:
    """What comes for the recipes called `names`, in a sentence."""
    suite, recipes = trials.plan.suite, sum(name in names for *_, name in trials.cells)
    assert suite.tune is not None
    return (
        f"Learning rates first: {counted(recipes, 'recipe')} × {counted(len(suite.tune.lr), 'rate')}, "
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
    names: Collection[str],
    records: Callable[[], Records],
    carry_out: Callable[[Plan, set[str], Collection[str]], object],
    *,
    fresh: bool,
) -> list[Tuned]:
    """Run the trials of the recipes called `names` that are not recorded, and choose.

    Args:
        carry_out: runs what is not recorded of a plan, of the cells with some names, without some stages.
        fresh: whether what is recorded runs again, too.
    """
    carry_out(trials.plan, trials.names(names), () if fresh else final(trials.plan, records()))
    return choose(trials, names, records())


def choose(trials: Grid, names: Collection[str], records: Records) -> list[Tuned]:
    """The best of each recipe's trials, as far as they are recorded: of equal ones that of the lowest rate.

    Of a recipe that is none of `names` and has no record of a trial, nothing.
    """
    found = []
    for (model, task, name), cells in trials.cells.items():
        if name not in names and not any(cell.path[-1].id in records.nodes for cell in cells.values()):
            continue
        first = next(iter(cells.values()))
        metric = registry.metric(first.subject.task.primary)
        sign = 1 if metric.better == "higher" else -1
        read = (tuning.read_trial(lr, cell.path[-1].id, metric, records) for lr, cell in cells.items())
        values = {trial.lr: trial.value for trial in read if trial.value is not None}
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


def final(trials: Plan, records: Records) -> set[str]:
    """The stages at whose rate training diverged, or left what proves nothing, and those that stand on one.

    The same rate would end so again, so that none of them does.
    """
    found = {
        id_ for id_ in trials.nodes if id_ in records.nodes and records.nodes[id_].status in ("diverged", "invalid")
    }
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
