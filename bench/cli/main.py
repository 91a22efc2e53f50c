"""The command line. Exit status: 0 all well, 1 something ran and ended neither ok nor refused, 2 wrong use or all was
refused, 130 interrupted.

Imports are inside the commands: ``--help`` and ``list`` must not wait for what only ``run`` needs.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.tree import Tree

    from bench.plan.plan import Node, Plan

app = typer.Typer(
    help="Which training or compression method should I use? A benchmark whose numbers can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Listed(StrEnum):
    """What can be listed."""

    methods = "methods"
    tasks = "tasks"
    kinds = "kinds"
    models = "models"
    metrics = "metrics"
    suites = "suites"


class Described(StrEnum):
    """What has a JSON Schema."""

    suite = "suite"
    record = "record"


class Format(StrEnum):
    """What a report can be."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


class Where(StrEnum):
    """Where stages run."""

    local = "local"
    ray = "ray"


class Through(StrEnum):
    """How checkpoints reach the machines of a cluster."""

    store = "object-store"
    folder = "shared-folder"


SuiteArgument = Annotated[
    str | None,
    typer.Argument(metavar="[SUITE]", help="A suite file, or the name of one that comes along.", show_default=False),
]
Models = Annotated[list[str] | None, typer.Option("--model", help="Without a suite: a model's name or directory.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Without a suite: a task's name.")]
Recipes = Annotated[
    list[str] | None, typer.Option("--recipe", help="Without a suite: a recipe; the first is the baseline.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The results folder.", show_default="results/SUITE")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Run the recipes whose names match this pattern.")]
Seeds = Annotated[
    int | None, typer.Option("--seeds", min=1, max=1000, help="Run seeds 0 to N-1 instead of the suite's.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps instead of the suite's.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda instead of the suite's.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads instead of the suite's.")]
Executes = Annotated[
    Where, typer.Option("--executor", help="This machine, or a Ray cluster: RAY_ADDRESS's, or one that is made here.")
]


def main() -> None:
    """The ``methodbench`` command."""
    from bench.machine import disk, output
    from bench.machine.machine import MachineError
    from bench.metrics.metric import MetricError
    from bench.recipe.errors import RecipeError
    from bench.recipe.registry import RegistryError
    from bench.record.errors import RecordError, Unwritten

    users_mistakes: tuple[type[Exception], ...] = (MachineError, MetricError, RecipeError, RecordError, RegistryError)
    output.open_streams()
    try:
        app()
    except (disk.Full, Unwritten) as error:
        _fail(f"stopped: {error}", 1)
    except users_mistakes as error:
        _fail(f"error: {error}")
    except OSError as error:
        said = f"{error.filename2 or error.filename or 'a file'}: {error.strerror or error}"
        if disk.full(error):
            _fail(f"stopped: {said}; free some space and run the same command again", 1)
        _fail(f"error: {said}")
    except ValueError as error:
        if type(error).__name__ != "SuiteError":  # importing it would import pydantic for every --help
            raise
        _fail(f"error: {error}")
    finally:
        # What `run` prints is in its report too.
        if (lost := output.unwritten()) and sys.argv[1:2] != ["run"]:
            _fail(f"stopped: standard output: {lost.strerror}", 1)


@app.command("list")
def list_(
    what: Listed, as_json: Annotated[bool, typer.Option("--json", help="Objects with name, kind and more.")] = False
) -> None:
    """List the methods, tasks, kinds of task, models, metrics or suites there are."""
    from bench.cli import catalogue

    entries = catalogue.entries(what.value)
    if as_json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column()
    for entry in entries:
        table.add_row(entry["name"], entry["kind"], entry["summary"])
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, task, model or metric.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show a method: its arguments and defaults, what proves it, its paper and an example."""
    from bench.cli import catalogue

    page = catalogue.page(name)
    print(json.dumps(page, indent=2, ensure_ascii=False) if as_json else catalogue.text(page))


@app.command("plan")
def plan_(
    suite: SuiteArgument = None,
    model: Models = None,
    task: Tasks = None,
    recipe: Recipes = None,
    out: Out = None,
    only: Only = None,
    seeds: Seeds = None,
    steps: Steps = None,
    device: Device = None,
    threads: Threads = None,
    where: Executes = Where.local,
) -> None:
    """Show the tree of stages: what is shared, what is recorded, and what is refused and why."""
    from rich.console import Console

    from bench.execute.suites import prepare
    from bench.plan import plan
    from bench.record.line import FILE
    from bench.stage import checkpoint
    from bench.tasks.alike import said

    asked = prepare(
        _given(suite, model, task, recipe),
        out=_folder(suite, out), only=only or [], seeds=seeds, steps=steps, device=device, threads=threads,
        executor=where.value,
    )  # fmt: skip
    whole, names, folder = asked.plan, asked.names, asked.folder
    chosen = whole.select(names)
    recorded: set[str] = set()
    if (folder / FILE).exists():
        from bench.record.reading import read

        recorded = read(folder).ok
    todo = plan.to_run(chosen, recorded, checkpoint.present(folder))
    Console().print(*_trees(chosen, names, todo), sep="\n")
    for name, counts in {cell.subject.task.name: cell.subject.task.counts() for cell in whole.cells}.items():
        if counted := said(counts):
            _say(f"{name}: {counted}")
    for line in asked.refusals():
        _say(line, error=True)
    alone = sum(len(cell.path) for cell in whole.cells if not cell.refused and cell.name in names)
    nodes = len(chosen.nodes)
    _say(f"{nodes} stages ({alone} without sharing), {nodes - len(todo)} recorded, {len(todo)} to run into {folder}")


@app.command("run")
def run_(
    suite: SuiteArgument = None,
    model: Models = None,
    task: Tasks = None,
    recipe: Recipes = None,
    out: Out = None,
    only: Only = None,
    seeds: Seeds = None,
    steps: Steps = None,
    device: Device = None,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run what is recorded already, too.")] = False,
    jobs: Annotated[
        str, typer.Option("--jobs", metavar="N|auto", help="Stages that may run side by side; auto: one a GPU.")
    ] = "1",
    where: Executes = Where.local,
    through: Annotated[
        Through, typer.Option("--checkpoints", help="With --executor ray: how they reach other machines.")
    ] = Through.store,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help="Seconds that a stage's process may take.")
    ] = None,
) -> None:
    """Run a suite, or recipes given here, and write the report. What is recorded already is not run again."""
    if jobs != "auto" and not (jobs.isdecimal() and len(jobs) < 10 and int(jobs)):
        _fail(f"error: --jobs {jobs}: it is a whole number of at least 1, or auto")
    from bench.execute.suites import run

    try:
        result = run(
            _given(suite, model, task, recipe),
            out=_folder(suite, out), only=only or [], seeds=seeds, steps=steps, device=device, threads=threads,
            fresh=fresh, jobs="auto" if jobs == "auto" else int(jobs), executor=where.value, checkpoints=through.value,
            timeout=timeout,
        )  # fmt: skip
    except KeyboardInterrupt as end:
        if not end.args:  # nothing had begun
            raise
        # While Python ends it gives up handlers of its own, and a second Ctrl-C would kill it with another status.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say(f"\nInterrupted. {end}", error=True)
        raise typer.Exit(130) from None
    from reports import write
    from reports.table import Terminal

    shown = Terminal()
    # First: what is printed may have no reader any more.
    written = write(result.records.read_on(), ["html", "md"], result.folder, shown)
    shown.print()
    for path in written:
        _say(f"wrote {path}")
    for text in result.beside:
        _say(f"note  {text}; all is in the records", error=True)
    if not result.ok:
        raise typer.Exit(1)
    if len(result.refused) == result.asked:
        raise typer.Exit(2)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format: Annotated[
        Format | None, typer.Option("--format", help="Print this one; html and md are written otherwise.")
    ] = None,
) -> None:
    """Report on a results folder: print it in one format, or write report.html and report.md into it."""
    from reports import pieces, write

    if format is not None:
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # as what it says of itself, and as the files are
        sys.stdout.writelines(pieces(folder, format.value))
        return
    for path in write(folder, ["html", "md"], folder):
        _say(f"wrote {path}")


@app.command()
def doctor() -> None:
    """Say what this machine has, what cannot run here and why, and how noisy it is."""
    from bench.cli import doctor
    from bench.machine import machine

    findings = doctor.examine(machine.look())
    marks = {"ok": "ok     ", "warn": "warning", "missing": "missing"}
    for finding in findings:
        _say(f"{marks[finding.state]}  {finding.name}: {finding.text}")


@app.command()
def schema(what: Annotated[Described, typer.Argument()] = Described.suite) -> None:
    """Print the JSON Schema of a suite file, for editors, or of a line of records."""
    from bench.record import format
    from bench.suite import suite

    described = suite.json_schema() if what is Described.suite else format.json_schema()
    print(json.dumps(described, indent=2))


def _given(
    suite: str | None, models: list[str] | None, tasks: list[str] | None, recipes: list[str] | None
) -> str | dict[str, Any]:
    """The suite that the command line names, or that its recipes make."""
    from bench.suite.suite import SuiteError

    if suite is not None:
        if models or tasks or recipes:
            raise typer.BadParameter("a suite says its own models, tasks and recipes; give one or the other")
        return suite
    if not (models and tasks and recipes):
        raise typer.BadParameter("give a suite, or --model, --task and --recipe")
    if len(set(recipes)) < len(recipes):
        raise SuiteError("--recipe: the same recipe is given twice")
    return {
        "title": "Recipes of the command line",
        "model": models,
        "task": tasks,
        "recipes": {r: r for r in recipes},
    }


def _folder(suite: str | None, out: Path | None) -> Path | None:
    return Path("results") / "command-line" if suite is None and out is None else out


def _trees(chosen: Plan, names: set[str], todo: dict[str, str]) -> list[Tree]:
    from rich.text import Text
    from rich.tree import Tree

    # Seeds differ in nothing but their numbers: each stage is drawn once, with a count over its seeds.
    twins: dict[tuple[str, str, str], list[Node]] = {}
    for node in chosen.nodes.values():
        twins.setdefault(
            (node.subject.model.name, node.subject.task.name, node.recipe.spell(defaults=True)), []
        ).append(node)
    ends: dict[str, list[str]] = {}
    for cell in chosen.cells:
        if cell.name in names and not cell.refused:
            ends.setdefault(cell.path[-1].id, []).append(cell.name)
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
            f"{model}/{task}", Tree(f"{model} on {task}, seeds {', '.join(map(str, chosen.suite.seeds))}")
        )
        drawn[first.id] = above.add(text)
    return list(trees.values())


def _say(text: str, error: bool = False) -> None:
    from bench.machine.output import visible

    print(visible(text), file=sys.stderr if error else sys.stdout, flush=True)


def _fail(text: str, status: int = 2) -> NoReturn:
    _say(f"methodbench: {text}", error=True)
    sys.exit(status)
