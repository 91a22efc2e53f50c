"""``methodbench gate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.say import fail, say


def gate_(
    suite: options.SuiteArgument = None,
    base: Annotated[str | None, typer.Option("--base", help="A revision of the suite's repository.")] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Another; . is the working tree.", show_default=".")
    ] = None,
    base_python: Annotated[
        Path | None, typer.Option("--base-python", help="An environment's interpreter, instead of a revision.")
    ] = None,
    head_python: Annotated[Path | None, typer.Option("--head-python", help="Another.")] = None,
    base_recipe: Annotated[
        str | None, typer.Option("--base-recipe", help="A recipe, in this environment, instead of a revision.")
    ] = None,
    head_recipe: Annotated[str | None, typer.Option("--head-recipe", help="Another.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Without a suite: a model's name or directory.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="Without a suite: a task's name.")] = None,
    allow: options.Allow = None,
    max_pairs: Annotated[
        int | None, typer.Option("--max-pairs", min=6, max=40, help="Pairs at most, before an alarm is confirmed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The results folder.", show_default="results/gate/SUITE")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure what is there already, too.")] = False,
) -> None:
    """Compare two revisions, environments or recipes: did anything become slower, larger or worse?"""
    import shutil

    from bench.gate import targets
    from bench.gate.gate import GateError, gate
    from bench.gate.revision import BuildError
    from bench.gate.verdict import VerdictError
    from bench.suite.suite import read_table
    from reports.gate import on_github, text, write

    ways = {
        "--base": base is not None,
        "--base-python and --head-python": base_python is not None and head_python is not None,
        "--base-recipe and --head-recipe": base_recipe is not None and head_recipe is not None,
    }
    if sum(ways.values()) != 1 or (head is not None and base is None):
        raise typer.BadParameter(f"say what is compared, in one way: {', or '.join(ways)}")
    recipes = base_recipe is not None and head_recipe is not None
    if suite is None and not (recipes and model and task):
        raise typer.BadParameter("give a suite; or --base-recipe and --head-recipe with --model and --task")
    if suite is not None and (model or task):
        raise typer.BadParameter("a suite says its own model and task; give one or the other")
    file = None if suite is None else targets.suite_file(suite)
    folder = out or Path("results") / "gate" / ("command-line" if file is None else file.stem)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        say(line, error=True)

    try:
        table = options.gate_table(file, allow or [], max_pairs)
        if base is not None:
            assert file is not None
            sides = targets.of_revisions(file, base, head or ".", table, folder, tell)
        elif base_python and head_python:
            assert file is not None
            sides = targets.of_pythons(file, base_python, head_python, folder)
        else:
            assert base_recipe is not None
            assert head_recipe is not None
            given = {"model": model, "task": task} if file is None else read_table(file)
            sides = targets.of_recipes(
                given, Path.cwd() if file is None else file.parent, base_recipe, head_recipe, folder
            )
        verdict = gate(*sides, table, folder, tell)
    except (BuildError, GateError, VerdictError) as error:
        fail(f"error: {error}")
    except KeyboardInterrupt:
        say(f"\nInterrupted. What was measured is kept in {folder}; the same command goes on from there.", error=True)
        raise typer.Exit(130) from None
    written = write(verdict, folder)
    text.show(verdict)
    for path in written:
        say(f"wrote {path}")
    on_github(verdict, os.environ)
    raise typer.Exit(verdict.status)
