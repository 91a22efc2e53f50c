"""``methodbench plan``."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import options
from bench.cli.say import say

if TYPE_CHECKING:
    from rich.tree import Tree

    from bench.execute.suites import Prepared
    from bench.plan.plan import Node, Plan


def plan_(
    suite: options.SuiteArgument = None,
    model: options.Models = None,
    task: options.Tasks = None,
    recipe: options.Recipes = None,
    out: options.Out = None,
    only: options.Only = None,
    seeds: options.Seeds = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    device: options.Device = None,
    threads: options.Threads = None,
    where: options.Executes = options.Where.local,
    as_json: Annotated[bool, typer.Option("--json", help="One object: stages, refusals, notes and data.")] = False,
) -> None:
    """Show the tree of stages: what is shared, what is recorded, and what is refused and why."""
    from bench.execute import tune
    from bench.execute.suites import prepare
    from bench.metrics.units import counted
    from bench.plan import plan
    from bench.record.line import FILE
    from bench.record.reading import Records, read
    from bench.stage import checkpoint

    asked = prepare(
        options.given(suite, model, task, recipe),
        out=options.folder(suite, out), only=only or [], seeds=seeds, steps=steps, epochs=epochs, device=device, threads=threads,
        executor=where.value,
    )  # fmt: skip
    there = (asked.folder / FILE).exists()
    records = read(asked.folder) if there else Records(asked.folder / FILE)
    recorded = records.ok
    trials = ""
    if asked.plan.suite.tune is not None:
        grid = tune.grid(asked.plan)
        asked = replace(asked, plan=tune.tuned(asked.plan, tune.choose(grid, asked.names, records)))
        nodes = grid.plan.select(grid.names(asked.names)).nodes
        waiting = len(nodes.keys() - recorded - tune.final(grid.plan, records))
        trials = f"{tune.announced(grid, asked.names)}: {counted(len(nodes), 'stage')}, {waiting} to run"
    chosen = asked.plan.select(asked.names)
    todo = plan.to_run(chosen, recorded, checkpoint.present(asked.folder))
    if as_json:
        print(json.dumps(_object(asked, chosen, todo) | {"trials": trials}, indent=2, ensure_ascii=False))
    else:
        _show(asked, chosen, todo, trials)
    if not chosen.nodes:
        raise typer.Exit(2)


def _ends(chosen: Plan, names: set[str]) -> dict[str, list[str]]:
    """The names of the recipes that end at each node."""
    ends: dict[str, list[str]] = {}
    for cell in chosen.cells:
        if cell.name in names and not cell.refused:
            ends.setdefault(cell.path[-1].id, []).append(cell.name)
    return ends


def _object(asked: Prepared, chosen: Plan, todo: dict[str, str]) -> dict[str, Any]:
    """The plan as `--json` prints it; a stage's state is new, recorded, or again where a new branch needs its model."""
    ends = _ends(chosen, asked.names)
    refused = [cell for cell in chosen.cells if cell.refused and cell.name in asked.names]
    return {
        "folder": str(asked.folder),
        "stages": [
            {
                "id": node.id,
                "parent": node.parent,
                "stage": str(node.stage),
                "recipe": str(node.recipe),
                "ends": ends.get(node.id, []),
                "model": node.subject.model.name,
                "task": node.subject.task.name,
                "seed": node.seed,
                "state": todo.get(node.id, "recorded"),
            }
            for node in chosen.nodes.values()
        ],
        "refused": [
            {
                "name": cell.name,
                "recipe": str(cell.recipe),
                "model": cell.subject.model.name,
                "task": cell.subject.task.name,
                "seed": cell.seed,
                "reasons": list(cell.refused),
            }
            for cell in refused
        ],
        "makes": _makes(chosen, todo),
        "notes": [asdict(note) for note in chosen.notes(asked.names)],
        "data": {cell.subject.task.name: dict(cell.subject.task.counts()) for cell in chosen.cells},
    }


def _show(asked: Prepared, chosen: Plan, todo: dict[str, str], trials: str) -> None:
    from rich.console import Console

    from bench.metrics.units import counted
    from bench.tasks.alike import said

    whole, names, folder = asked.plan, asked.names, asked.folder
    Console().print(*_trees(chosen, names, todo), sep="\n")
    for name, counts in {cell.subject.task.name: cell.subject.task.counts() for cell in whole.cells}.items():
        if data := said(counts):
            say(f"{name}: {data}")
    for line in asked.refusals():
        say(line, error=True)
    for making in _makes(chosen, todo):
        say(f"before the first stage: {making}")
    if trials:
        say(trials)
    alone = sum(len(cell.path) for cell in whole.cells if not cell.refused and cell.name in names)
    nodes = len(chosen.nodes)
    say(
        f"{counted(nodes, 'stage')} ({alone} without sharing), {nodes - len(todo)} recorded, {len(todo)} to run into {folder}"
    )


def _makes(chosen: Plan, todo: dict[str, str]) -> list[str]:
    """What is fetched or made of the models of what is to run."""
    found = (chosen.nodes[id_].subject.model.to_make() for id_ in todo)
    return list(dict.fromkeys(making for making in found if making))


def _trees(chosen: Plan, names: set[str], todo: dict[str, str]) -> list[Tree]:
    from rich.text import Text
    from rich.tree import Tree

    # Seeds differ in nothing but their numbers: each stage is drawn once, with a count over its seeds.
    twins: dict[tuple[str, str, str], list[Node]] = {}
    for node in chosen.nodes.values():
        twins.setdefault(
            (node.subject.model.name, node.subject.task.name, node.recipe.spell(defaults=True)), []
        ).append(node)
    ends = _ends(chosen, names)
    seeds = f"seed{'' if len(chosen.suite.seeds) == 1 else 's'} {', '.join(map(str, chosen.suite.seeds))}"
    trees: dict[str, Tree] = {}
    drawn: dict[str, Tree] = {}
    for (model, task, _), nodes in twins.items():
        first = nodes[0]
        waiting = [todo[node.id] for node in nodes if node.id in todo]
        state = "recorded" if not waiting else "again, for a new branch" if set(waiting) == {"again"} else "to run"
        if waiting and len(waiting) < len(nodes):
            state += f" ({len(waiting)} of {len(nodes)} seeds)"
        text = Text(str(first.stage))
        text.append(f"  {', '.join(dict.fromkeys(ends.get(first.id, [])))}", style="bold")
        text.append(f"  {state}", style="dim" if not waiting else "")
        above = drawn.get(first.parent or "") or trees.setdefault(
            f"{model}/{task}", Tree(f"{model} on {task}, {seeds}")
        )
        drawn[first.id] = above.add(text)
    return list(trees.values())
