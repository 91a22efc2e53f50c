"""A recipe's model out of a results folder, as a folder that others load, with a card that says what it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote as quoted
from typing import Any

from bench.compare.compare import Comparison, compare
from bench.compare.rows import Row
from bench.execute.forkserver import ForkServer
from bench.execute.run import job_of
from bench.execute.suites import Latest, environment_kept, latest
from bench.machine import disk
from bench.plan import plan
from bench.plan.dividing import shortage
from bench.plan.plan import Cell as Planned
from bench.plan.plan import Plan, key_of
from bench.recipe import registry
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.recipe import then
from bench.record.errors import RecordError
from bench.record.schema import Cell
from bench.stage import checkpoint
from bench.stage.job import LIBRARIES, Export, Progress, untold


class ExportError(Exception):
    """What was written is not the model, or could not be written. Nothing of it is left."""


@dataclass(frozen=True)
class Exported:
    """What a folder holds: the model of ``row`` of a comparison, for ``seed``; ``first`` where nobody named one.

    ``kind`` is the task's. ``hub`` is what the hub calls the model that the recipe began with, where that is there. Where it
    was ``converted``, what was measured is the recipe's model in another form. ``loading``, ``reading``, ``proof`` and ``vllm``
    are as :mod:`bench.stage.export` gives them.
    """

    folder: Path
    comparison: Comparison
    row: Row
    seed: int
    first: bool
    format: str
    kind: str
    hub: str
    converted: bool
    loading: Mapping[str, Any]
    reading: str
    proof: Mapping[str, Any]
    vllm: str


def export(
    folder: Path,
    recipe: str,
    to: Path,
    card: Callable[[Exported], str],
    *,
    seed: int | None = None,
    format: str | None = None,
    model: str | None = None,
    task: str | None = None,
    progress: Progress = untold,
) -> Exported:
    """Write the model that the recipe called `recipe` left in a results `folder`, for one seed, into the folder `to`.

    A stage keeps its model for as long as another needs it, or as long as the suite has it kept: ``[measure] keep``.

    Args:
        card: gives the text of the folder's README.md.
        seed: the first of the suite, where there is none.
        format: the model's own, where there is none.
        model: its name, where the run has several.
        task: its name, where the run has several.

    Raises:
        RecordError: there is no such run, seed or checkpoint, or `to` is not empty. RecipeError: no recipe has that name, or
            the format cannot hold the model. ExportError: it is not the same model, once it is loaded. disk.Full: the disk is
            full.
    """
    formats = (*LIBRARIES, *registry.runtimes())
    if format is not None and format not in formats:
        raise RecipeError(f"--format {format}: there is no such format{nearest(format, formats)}")
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise RecordError(
            f"{to}: {'it is not empty' if to.is_dir() else 'it is a file'}; name a new folder, or empty it"
        )
    found = latest(folder, recipe)
    cell = _cell(found, recipe, seed, model, task)
    file = _checkpoint(folder, found, cell)
    whole = found.prepared(folder, recipe, shortage, "cpu").plan
    planned = next(each for each in whole.cells if key_of(each) == (cell.model, cell.task, cell.name))
    with (
        disk.atomic_folder(to) as half,
        tempfile.TemporaryDirectory(prefix="methodbench-") as temporary,
        environment_kept(),
    ):
        job = replace(
            job_of(planned.path[-1], whole, folder),
            what="export",
            node=cell.path[-1],
            seed=cell.seed,
            output=file,
            temporary=None,
            log=Path(temporary, "log"),
            export=Export(half.absolute(), format or "", _refused(planned, whole)),
        )
        outcome = ForkServer().run(job, None, progress)
        if outcome.status == "refused":
            raise RecipeError(f"{recipe}: {outcome.reason}")
        if outcome.reason.startswith(disk.FULL):
            raise disk.Full(f"{to}: {outcome.reason}; free some space and run the same command again")
        if outcome.status != "ok":
            said = f"{recipe}: {outcome.reason}; nothing was written"
            raise ExportError("\n".join(filter(None, [said, outcome.log.strip()])))
        comparison = next(
            each
            for each in compare(found.records)
            if (each.title, each.model, each.task) == (found.run.title, cell.model, cell.task)
        )
        row = next(row for row in comparison.rows if row.name == recipe)
        exported = Exported(to, comparison, row, cell.seed, seed is None, **outcome.measured["export"])
        (half / "README.md").write_text(card(exported), encoding="utf-8")
    return exported


def _cell(found: Latest, recipe: str, seed: int | None, model: str | None, task: str | None) -> Cell:
    """What the run recorded of the recipe: for the seed, or else for its first."""
    cells = [cell for cell in found.run.cells if cell.name == recipe]
    for option, asked in (("model", model), ("task", task)):
        names = list(dict.fromkeys(getattr(cell, option) for cell in cells))
        if asked is None and len(names) > 1:
            raise RecordError(f"{found.records.file}: there are {len(names)} of them: --{option} {' or '.join(names)}")
        if asked is not None and asked not in names:
            raise RecordError(f"--{option} {asked}: there is no such {option} in the run{nearest(asked, names)}")
        cells = [cell for cell in cells if getattr(cell, option) == (asked or names[0])]
    chosen = next((cell for cell in cells if seed in (None, cell.seed)), None)
    if chosen is None:
        raise RecordError(
            f"--seed {seed}: {recipe} was not run with it, but with {', '.join(str(cell.seed) for cell in cells)}"
        )
    return chosen


def _checkpoint(folder: Path, found: Latest, cell: Cell) -> Path:
    """The file that holds the model.

    Raises:
        RecordError: the recipe did not end ok, or the model is not kept.
    """
    if cell.refused:
        raise RecordError(f"{cell.name} was refused: {'; '.join(cell.refused)}")
    for node in cell.path:
        record = found.records.nodes.get(node)
        if record is None:
            raise RecordError(f"{cell.name} has not run with seed {cell.seed} yet; run the suite again, and it goes on")
        if record.status != "ok":
            raise RecordError(f"{cell.name}, seed {cell.seed}: it ended {record.status}: {record.reason}")
    there = checkpoint.present(folder)
    if cell.path[-1] in there:
        return checkpoint.path(folder, cell.path[-1])
    others = [
        str(each.seed)
        for each in found.run.cells
        if (each.name, each.model, each.task) == (cell.name, cell.model, cell.task) and each.path[-1] in there
    ]
    also = f"; there is one of seed {' and '.join(others)}: --seed {others[0]}" if others else ""
    raise RecordError(
        f"{folder}: the model of {cell.name} for seed {cell.seed} was not kept{also}. This trains it again and keeps it:\n"
        f"  methodbench rerun {quoted(str(folder))} {quoted(cell.name)} --keep"
    )


def _refused(planned: Planned, whole: Plan) -> dict[str, str]:
    """Why the model cannot become a runtime's files, as its method would say behind the recipe; empty where it can."""
    found = {}
    for format, method in registry.runtimes().items():
        reasons = plan.refusals(then(planned.recipe, method()), planned.subject, whole.suite, whole.machine)
        own = [reason for reason in reasons if reason.startswith(f"{method.name}: ")]
        found[format] = "; ".join(reason.removeprefix(f"{method.name}: ") for reason in own)
    return found
