"""``methodbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.say import fail, say

EXIT_STATUS = (
    "Exit status: 0 the folder is there, and was proven; 1 what was written is not the same model, or the disk is full, and "
    "nothing of it is left; 2 the use was wrong, the model was not kept, or the format cannot hold it."
)


def export_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name in its latest run.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the model goes: a new or an empty folder.")],
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of which seed.", show_default="the suite's first")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="transformers, peft, onnx or openvino.", show_default="the model's own"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Of which model, where the run has several.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Of which task, where the run has several.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the model of a recipe as a folder that transformers, PEFT, onnxruntime or OpenVINO load, with a card that says
    what was measured of it. A fresh process, without methodbench, loads the folder, and must answer test items as the
    recipe's model does."""
    from bench.execute.export import ExportError, export
    from reports.model_card import model_card

    try:
        found = export(folder, recipe, to, model_card, seed=seed, format=format, model=model, task=task)
    except ExportError as error:
        fail(f"stopped: {error}", 1)
    if not quiet:
        proof = found.proof
        say(f"wrote {to}: {recipe}, seed {found.seed}, for {found.format}")
        say(
            f"proven: a fresh process without methodbench answers {proof['items']} test items the same, to {proof['off']:.2g} "
            f"of the largest logit ({proof['allowed']:g} is allowed)"
        )
