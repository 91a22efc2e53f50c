"""Jobs on tiny models, run in the test's own process; a stage of several processes is run by a worker's."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from bench.execute.forkserver import prepared
from bench.execute.worker import attempt
from bench.machine import machine
from bench.recipe import recipe, registry
from bench.recipe.facts import stages_before_compression
from bench.recipe.method import Method, Trainer
from bench.stage import checkpoint
from bench.stage.evidence import digest, named_tensors
from bench.stage.job import UNSEEN, Job, untold
from bench.suite.suite import Budget, Measure
from bench.tasks.kinds.classification import ClassificationTable
from bench.tasks.registry import open_task
from bench.tasks.table import DataTable, TextTable

THREADS = 2
"""Of a job; several processes divide them."""

WORDS = {
    "fruit": "apple pear plum cherry melon grape",
    "metal": "iron zinc copper silver lead tin",
    "river": "rhine danube nile amazon volga thames",
}


def table(folder: Path, rows: int = 120) -> DataTable:
    """A data set that a tiny model can learn: `rows` short texts of three kinds."""
    file = folder / "data.csv"
    if not file.exists():
        lines = ["text,label"]
        for number in range(rows):
            label = list(WORDS)[number % 3]
            words = WORDS[label].split()
            text = " ".join(words[(number * step + number // 3) % 6] for step in (1, 2, 3)[: 1 + number % 4])
            lines.append(f"{text} {number},{label}")
        file.write_text("\n".join(lines))
    return ClassificationTable(kind="classification", data=str(file))


def prose(folder: Path, texts: int = 120) -> DataTable:
    """Language modelling data of the same words: `texts` short ones of different lengths."""
    file = folder / "prose.jsonl"
    if not file.exists():
        words = " ".join(WORDS.values()).split()
        rows = [" ".join(words[number * step % 18] for step in range(1, 2 + number % 9)) for number in range(texts)]
        file.write_text("\n".join(json.dumps({"text": f"{row} {number}."}) for number, row in enumerate(rows)))
    return TextTable(kind="causal_lm", data=str(file))


def job(text: str, model: Path, folder: Path, *, depth: int | None = None, seed: int = 0, **keys: Any) -> Job:
    """The job of one stage of a recipe, the last by default."""
    stages = recipe.parse(text).stages
    depth = len(stages) - 1 if depth is None else depth
    prefix = recipe.Recipe(stages[: depth + 1])
    budget = {"steps": 6, "batch_size": 8, "max_length": 32, "warmup_steps": 2} | keys.pop("budget", {})
    measure = {"latency": [(1, 8)], "latency_samples": 3} | keys.pop("measure", {})
    (folder / "checkpoints").mkdir(mode=0o700, exist_ok=True)
    whole = stages_before_compression(prefix.stages)
    return Job(
        what="stage",
        node=f"node{depth}",
        recipe=prefix.spell(defaults=True),
        model=str(model),
        task=keys.pop("task", None) or table(folder),
        suite_folder=folder,
        seed=seed,
        budget=Budget(**budget),
        measure=Measure(**measure),
        machine=machine.look("cpu", THREADS),
        input=folder / "checkpoints" / f"node{depth - 1}.pt" if depth else None,
        output=folder / "checkpoints" / f"node{depth}.pt",
        log=folder / "log.txt",
        uncompressed=folder / "checkpoints" / f"node{whole - 1}.pt" if whole else None,
    )


def run(
    text: str,
    model: Path,
    folder: Path,
    *,
    without: tuple[str, str] | None = None,
    absent: bool = False,
    serve: bool = False,
    **keys: Any,
) -> tuple[str, str, list[dict[str, Any]]]:
    """Run every stage of a recipe; the last status and reason, and what each stage measured.

    With `serve`, inference is measured too, after the last stage and as a worker does.
    Where a worker runs it, `without` takes the place of a patch here: a method's name and its hook that does nothing.
    Every measure is taken, but where some are to be `absent`: a method that breaks one is not one that works.
    """
    _skip_broken(text, open_task(keys.get("task") or table(folder), folder).kind)
    records: list[dict[str, Any]] = []
    status, reason = "ok", ""
    for depth in range(len(recipe.parse(text).stages)):
        one = job(text, model, folder, depth=depth, **dict(keys))
        several = recipe.parse(text).stages[depth].layout
        status, reason, measured = apart(one, without) if several else attempt(one, quiet)
        records.append(measured)
        assert absent or status != "ok" or "absent" not in measured, measured["absent"]
        if status != "ok":
            return status, reason, records
    if serve:
        status, reason, measured = apart(replace(one, what="serve"), without)
        records.append(measured)
    return status, reason, records


@dataclass(frozen=True)
class Trained:
    """What a training came to: its losses, a hash of each tensor of its model, and where it went on after a kill."""

    losses: list[float]
    tensors: dict[str, str]
    resumed: list[int]


def trains_alone(text: str) -> bool:
    """Whether a recipe ends with a training in one process."""
    stage = recipe.parse(text).stages[-1]
    return isinstance(stage.main, Trainer) and not stage.layout


def trained_in_pieces(
    text: str, model: Path, folder: Path, patch: pytest.MonkeyPatch, kills: Sequence[int] = (3,)
) -> tuple[Trained, Trained]:
    """A recipe's last training at once, and the same with a kill after each of so many steps. All evidence holds."""
    from bench.stage import resume

    patch.setattr(resume, "SHARE", math.inf)  # after every step
    few: dict[str, Any] = {"latency": [], "quality": False, "memory": False, "flops": False, "size": False}
    for depth in range(len(recipe.parse(text).stages) - 1):
        status, reason, _ = attempt(job(text, model, folder, depth=depth, measure=few), quiet)
        assert status == "ok", reason
    one = job(text, model, folder, measure=few)
    at_once = _trained(one)
    saving = replace(one, checkpoint_minutes=1e-9)
    checkpoint.of_training(one.output).unlink(missing_ok=True)
    for step in kills:
        kill(saving, after=step)
    return at_once, _trained(saving)


def _trained(one: Job) -> Trained:
    status, reason, measured = attempt(one, quiet)
    assert status == "ok", reason
    model, _ = checkpoint.load(one.output)
    tensors = {name: digest(tensor) for name, tensor in named_tensors(model).items()}
    return Trained(measured["training"]["losses"], tensors, measured["training"]["resumed"])


class _Killed(BaseException):
    """What no part of a job deals with, as a kill."""


def kill(one: Job, after: int) -> None:
    """Run a job that saves after each step, and kill it in the one that follows on `after` steps."""

    def look(what: str, done: int, of: int, seen: Mapping[str, float] = UNSEEN) -> None:
        if what == "train" and done > after:
            raise _Killed

    with contextlib.suppress(_Killed):
        attempt(one, look)


def _skip_broken(text: str, kind: str) -> None:
    """Skip the test where a method of `text` declares that the installed versions break it on a task of `kind`."""
    for method in (method for stage in recipe.parse(text).stages for method in stage.methods):
        for broken in method.breaks_with:
            here = kind in (broken.tasks or {kind}) and machine.satisfies(machine.look("cpu"), broken.versions)
            if here:
                pytest.skip(f"{method.name}: {broken}")


quiet = untold
"""Progress that nobody is told."""


def nothing(hook: str) -> Any:
    """What a hook that does nothing is: one that proves gives no claim, one that wraps gives back what it was given."""
    if hook in PROOFS:
        return lambda self, *given: ()
    return (lambda self, *given: None) if hook in DOING else getattr(Method, hook)


DOING = ("on_model", "apply", "save", "on_serve")
"""The hooks that act. One that does nothing gives nothing back."""
PROOFS = ("evidence", "removal_evidence", "retention_evidence", "serving_evidence")
"""The hooks that prove."""


def apart(one: Job, without: tuple[str, str] | None = None) -> tuple[str, str, dict[str, Any]]:
    """Run a job as a worker does, in a process that may fork: this one has threads."""
    context = prepared()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_apart, args=(theirs, one, without))
    process.start()
    theirs.close()
    try:
        assert ours.poll(120), "the job hangs"
        status, reason, measured = ours.recv()
        return status, reason, measured
    finally:
        process.kill()
        process.join()


def _apart(connection: Connection, one: Job, without: tuple[str, str] | None) -> None:
    if without:
        name, hook = without
        setattr(registry.methods()[name], hook, nothing(hook))
    connection.send(attempt(one, quiet))
