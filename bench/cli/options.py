"""What several commands are told, what they make of it, and how they end."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from bench.suite.gate import GateTable


EXIT_STATUS = (
    "Exit status: 0 all went well; 1 a stage ended neither ok nor refused, or the disk is full; 2 the use was wrong, or "
    "everything was refused; 130 interrupted by Ctrl-C."
)
GATE_EXIT_STATUS = (
    "Exit status: 0 nothing became worse; 1 something did; 2 the use was wrong, or a side cannot run; 3 it could not be "
    "told; 130 interrupted by Ctrl-C."
)


class Where(StrEnum):
    """Where stages run."""

    local = "local"
    ray = "ray"


class Tracker(StrEnum):
    """What cells can be sent to."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"
    trackio = "trackio"


SuiteArgument = Annotated[
    str | None,
    typer.Argument(metavar="SUITE", help="A suite file, or the name of one that comes along.", show_default=False),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="MODEL", help="Without a suite: a model's name or directory.")
]
Tasks = Annotated[list[str] | None, typer.Option("--task", metavar="TASK", help="Without a suite: a task's name.")]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="RECIPE", help="Without a suite: a recipe; the first is the baseline."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The results folder.", show_default="results/SUITE")
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="PATTERN", help="Run the recipes whose names match this pattern.")
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=1, max=1000, help="Run seeds 0 to N-1 instead of the suite's.")
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", min=1, help="Optimizer steps instead of the suite's.")
]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs", metavar="N", min=1e-9, help="Passes over the training items instead of the suite's steps."
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu or cuda instead of the suite's.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads instead of the suite's.")
]
Executes = Annotated[
    Where, typer.Option("--executor", help="This machine, or a Ray cluster: RAY_ADDRESS's, or one that is made here.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="METRIC=CHANGE", help="What may become how much worse, as throughput=3%."),
]

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print the final table and errors alone.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print what was measured of each stage, too.")]


def verbosity(quiet: bool, verbose: bool) -> Literal["errors", "stages", "figures"]:
    """What a run says while it goes on."""
    if quiet and verbose:
        raise typer.BadParameter("--quiet or --verbose: give one or the other")
    return "errors" if quiet else "figures" if verbose else "stages"


def given(
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


def folder(suite: str | None, out: Path | None) -> Path | None:
    """The results folder that the command line names; None: the suite's own."""
    return Path("results") / "command-line" if suite is None and out is None else out


def gate_table(suite: Path | None, allow: list[str], max_pairs: int | None) -> GateTable:
    """What a gate holds: the suite's ``[gate]``, or what is usual without one, with what the command line says instead.

    Raises:
        SuiteError: what is allowed is not understood, or the suite is wrong. GateError: the suite has no such table.
    """
    from pydantic import ValidationError

    from bench.gate import targets
    from bench.suite.gate import GateTable
    from bench.suite.suite import SuiteError

    table: dict[str, Any] = dict(targets.DEFAULT) if suite is None else targets.table_of(suite).model_dump()
    for text in allow:
        metric, equals, change = text.partition("=")
        if not equals:
            raise SuiteError(f"--allow {text}: say which metric may change by how much, as in throughput=3%")
        table[metric.strip()] = change
    if max_pairs is not None:
        table["max_pairs"] = max_pairs
    try:
        return GateTable.model_validate(table)
    except ValidationError as error:
        said = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise SuiteError(f"--allow: {said}") from None
