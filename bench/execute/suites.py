"""Plan and run a suite: what the command line and ``bench.run`` both call."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.machine import machine
from bench.machine.machine import MachineError
from bench.machine.output import visible
from bench.plan import dividing, plan
from bench.recipe.errors import RecipeError, nearest
from bench.recipe.method import Method
from bench.recipe.recipe import Recipe
from bench.record.errors import RecordError
from bench.stage import checkpoint
from bench.suite.suite import Suite, SuiteError, of, read_table, shipped

if TYPE_CHECKING:
    from bench.execute.base import Executor
    from bench.execute.cluster import Cluster, Through
    from bench.execute.run import Result
    from bench.execute.slots import Slots
    from bench.execute.watch import Follow, Say
    from bench.plan.dividing import Shortage
    from bench.plan.plan import Plan
    from bench.record.reading import Records
    from bench.record.schema import Run, Tuned

Given = str | os.PathLike[str] | Mapping[str, Any] | Suite
"""A suite: a file, the name of one that comes along, a table as a file holds it, or one that was read."""

Where = Literal["local", "ray"]

CHECKPOINT_MINUTES = 10.0
"""How often a training is saved, where nothing is said."""


@dataclass(frozen=True)
class Prepared:
    """A suite's plan, the names of the recipes that were chosen, and the folder of its records."""

    plan: Plan
    names: set[str]
    folder: Path
    looks: tuple[int, ...] = ()
    """The numbers of seeds at which a run that adds seeds may ever look; none where it adds none."""
    at: tuple[int, ...] = ()
    """Of these, those at which this run does."""

    def refusals(self) -> Iterator[str]:
        """What cannot run and why, a line each, and what else there is to know before a run."""
        for cell in self.plan.cells:
            if cell.refused and cell.name in self.names and cell.seed == self.plan.suite.seeds[0]:
                yield f"refused  {cell.name}: {'; '.join(cell.refused)}"
        for note in self.plan.notes(self.names):
            yield f"note  {note.text.replace('`', '')}"


def prepare(
    suite: Given,
    *,
    suite_folder: str | os.PathLike[str] = "",
    out: str | os.PathLike[str] | None = None,
    only: str | Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    executor: Where = "local",
) -> Prepared:
    """Plan a suite without running anything. Arguments and errors are those of :func:`run`."""
    with contextlib.closing(cluster()) if executor == "ray" else contextlib.nullcontext() as ray:
        shortage = ray.shortage if ray else dividing.shortage
        return _prepared(suite, suite_folder, out, only, seeds, steps, epochs, device, threads, shortage)


def run(
    suite: Given,
    *,
    suite_folder: str | os.PathLike[str] = "",
    out: str | os.PathLike[str] | None = None,
    only: str | Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    fresh: bool = False,
    jobs: int | Literal["auto"] = 1,
    executor: Where = "local",
    checkpoints: Through = "object-store",
    timeout: float | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    keep: Collection[int] = (),
    settle: bool = False,
    max_seeds: int | None = None,
    say: Say = "stages",
    follow: Follow | None = None,
) -> Result:
    """Run a suite and record each stage as it ends. What is recorded already is not run again.

    Progress goes to standard error. Each stage runs in a process of its own, so this works in a notebook too, and a
    script needs no ``if __name__ == "__main__"``.

    Args:
        suite: a file's path, the name of a suite that comes along, or a table as a file would hold it, in which a recipe
            may be a :class:`Recipe` too.
        suite_folder: the folder that the paths in a table are relative to; the working directory otherwise.
        out: the results folder; ``results/NAME`` otherwise, of a table ``results/python``.
        only: run the recipes whose names match one of these patterns.
        seeds: run seeds 0 to N-1, or these, instead of the suite's.
        steps: optimizer steps of each trainer, instead of the suite's, also in its trials of learning rates.
        epochs: passes over the training items, instead of the suite's steps.
        device: "auto", "cpu" or "cuda" instead of the suite's.
        threads: CPU threads of each stage, instead of the suite's.
        fresh: run what is recorded already, too.
        jobs: stages that may run side by side; "auto": one a GPU.
        executor: "local" for this machine, "ray" for a Ray cluster.
        checkpoints: how they reach a cluster's machines, "object-store" or "shared-folder".
        timeout: seconds that one process of a stage may take.
        checkpoint_minutes: how often a training is saved, so that the same call goes on in the middle of it; 0 is never.
        keep: seeds whose checkpoints stay in the folder.
        settle: add seeds to the recipes that are not settled, until they are.
        max_seeds: seeds that a recipe then has at most; 12 otherwise.
        say: what standard error says: "errors" alone, a line of all "stages", or the "figures" of each too.
        follow: given the results folder, what is told of each stage that ended, as trackers are.

    Raises:
        SuiteError: the suite is wrong, or cannot be read. RecipeError, RegistryError: a method is, or a package's.
        MachineError: what was asked for is not here. RecordError: the folder cannot be written or read.
        disk.Full: the disk is full. What ended is recorded, and the same call goes on from there.
        KeyboardInterrupt: Ctrl-C, with a message that says so too.
    """
    if jobs != "auto" and (type(jobs) is not int or jobs < 1):
        raise MachineError(f"jobs: {jobs!r}: it is a whole number of at least 1, or auto")
    if executor not in ("local", "ray"):
        raise MachineError(f"executor: unknown executor `{executor}`; there are: local, ray")
    if not checkpoint_minutes >= 0:
        raise MachineError(f"checkpoint_minutes: {checkpoint_minutes!r}: it is a number of minutes, or 0 for never")
    if max_seeds is not None and not settle:
        raise SuiteError("--max-seeds: it bounds the seeds that --settle adds; give both, or neither")

    def prepared(shortage: Shortage) -> Prepared:
        asked = _prepared(suite, suite_folder, out, only, seeds, steps, epochs, device, threads, shortage)
        return _to_settle(asked, shortage, max_seeds) if settle else asked

    return _run(prepared, fresh, jobs, executor, checkpoints, timeout, checkpoint_minutes, keep, say=say, follow=follow)


def _run(
    prepared: Callable[[Shortage], Prepared],
    fresh: bool = False,
    jobs: int | Literal["auto"] = 1,
    executor: Where = "local",
    checkpoints: Through = "object-store",
    timeout: float | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    keep: Collection[int] = (),
    names: Collection[str] = (),
    say: Say = "stages",
    follow: Follow | None = None,
    tune_again: bool = True,
) -> Result:
    """Run what is `prepared` where there is as much room as it is told. The models of the recipes called `names` stay in the
    folder. Other arguments are those of :func:`run`.

    Trials of learning rates that are recorded run again where `fresh` and `tune_again`.
    """
    from bench.execute import keep as keeping
    from bench.execute import references, tune
    from bench.execute import run as engine
    from bench.execute import settle as rounds
    from bench.execute.watch import watcher
    from bench.record.store import Store

    with contextlib.ExitStack() as until:
        ray = until.enter_context(contextlib.closing(cluster(checkpoints))) if executor == "ray" else None
        asked = prepared(ray.shortage if ray else dividing.shortage)
        if say != "errors":
            for line in asked.refusals():
                _say(line, sys.stderr)
        store = Store(asked.folder)
        until.enter_context(environment_kept())
        until.enter_context(_interrupted_once(asked.folder, fresh=fresh))
        runs, room = _executor(ray, asked, None if jobs == "auto" else jobs)
        until.callback(runs.close)
        until.enter_context(store.lock(_say))
        follower = until.enter_context(follow(asked.folder)) if follow else None

        def tell(text: str) -> None:
            if say != "errors":
                _say(text, sys.stderr)

        found: list[Tuned] = []
        if asked.plan.suite.tune is not None:
            trials = tune.grid(asked.plan)

            def carry_out_trials(part: Plan, names: set[str], ran: Collection[str]) -> Result:
                with watcher(part, say) as watching:
                    return engine.run(
                        part, names, store, runs, watching,
                        timeout=timeout, fresh=fresh and tune_again, checkpoint_minutes=checkpoint_minutes, room=room, ran=ran,
                        tuning=None,
                    )  # fmt: skip

            tell(tune.announced(trials, asked.names))
            found = tune.run(trials, asked.names, store.read, carry_out_trials, fresh=fresh and tune_again)
            for line in tune.said(found, store.read()):
                tell(line)
            asked = replace(asked, plan=tune.tuned(asked.plan, found))
        kept = keeping.kept(asked.plan, store.read, keep, names)

        def carry_out(part: Plan, ran: Collection[str]) -> Result:
            with watcher(part, say, follower) as watching:
                return engine.run(
                    part, asked.names, store, runs, watching,
                    timeout=timeout, fresh=fresh, checkpoint_minutes=checkpoint_minutes, room=room, keep=kept, ran=ran,
                    looks=asked.looks, tuning=found,
                )  # fmt: skip

        if asked.at:
            result = rounds.run(asked.plan, asked.names, asked.at, store.read().ok, carry_out, tell)
        else:
            result = carry_out(asked.plan, ())
        now = keeping.kept(asked.plan, result.records.read_on, keep, names, over=True)
        with contextlib.suppress(OSError):  # what stays for too long takes space alone
            checkpoint.remove(store.folder, kept.stay - now.stay - result.needed)
        unscored = references.run(asked.plan.select(asked.names), result.records.read_on(), store, runs, tell, timeout)
        unsent = follower.done(tell) if follower else ()
        return replace(result, beside=(*result.beside, *unscored, *unsent))


@dataclass(frozen=True)
class Latest:
    """The latest run in a results folder, and what it recorded of its suite."""

    records: Records
    run: Run
    suite: Mapping[str, Any]
    suite_folder: Path

    def prepared(self, folder: str | os.PathLike[str], recipe: str, shortage: Shortage, device: str | None) -> Prepared:
        """The plan of its suite, with the recipe called `recipe` as the one to run."""
        only = glob.escape(recipe)
        return _prepared(self.suite, self.suite_folder, folder, only, None, None, None, device, None, shortage)


def latest(folder: str | os.PathLike[str], recipe: str) -> Latest:
    """The latest run in a results `folder`, which has a recipe called `recipe`.

    Raises:
        RecordError: there is no such run, or its record does not have the suite. RecipeError: no recipe has that name.
    """
    from bench.record.reading import read

    records = read(folder)
    if not records.runs:
        raise RecordError(f"{records.file}: there is no record of a run in it")
    last = records.runs[-1]
    if not isinstance(last.suite, Mapping) or not isinstance(last.suite_folder, str):
        raise RecordError(
            f"{records.file}: the latest run was recorded without its suite, by an older version; run the suite with "
            f"--only '{recipe}' --fresh --out {folder}"
        )
    names = list(last.suite.get("recipes", ()))
    if recipe not in names:
        raise RecipeError(f"the latest run in {folder} has no recipe `{recipe}`{nearest(recipe, names)}")
    return Latest(records, last, last.suite, Path(folder) / last.suite_folder)


def rerun(folder: str | os.PathLike[str], recipe: str, *, keep: bool = False, say: Say = "stages") -> Result:
    """Run the stages of one recipe of the latest run in a results `folder` again, as that run's suite has them.

    With `keep`, its models stay in the folder until another run of it.

    Raises:
        RecordError, RecipeError: as :func:`latest`. And what :func:`run` raises.
    """
    found = latest(folder, recipe)
    last = found.run
    cells = {(cell.model, cell.task, cell.name, cell.seed) for cell in last.cells}

    def prepared(shortage: Shortage) -> Prepared:
        asked = found.prepared(folder, recipe, shortage, None)
        if last.settle is None:
            return asked
        # It has seeds that its suite has not, and not of all recipes.
        seeds, of = list(dict.fromkeys(cell.seed for cell in last.cells)), asked.plan
        whole = plan.make(of.suite, of.suite_folder, of.machine, shortage, seeds)
        part = whole.of(lambda cell: (cell.subject.model.name, cell.subject.task.name, cell.name, cell.seed) in cells)
        return replace(asked, plan=part, looks=tuple(last.settle.looks))

    return _run(prepared, fresh=True, names=[recipe] if keep else [], say=say, tune_again=False)


def cluster(through: Through = "object-store") -> Cluster:
    """The Ray cluster that ``RAY_ADDRESS`` names or that runs here, or a new one of this machine.

    Raises:
        MachineError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise MachineError("--executor ray needs the package ray; pip install 'methodbench[cluster]'") from None
    from bench.execute.cluster import Cluster

    try:
        return Cluster(through)
    except ConnectionError as error:
        raise MachineError(
            f"--executor ray: no cluster answers ({error}); start one with `ray start`, or unset RAY_ADDRESS"
        ) from None


def _prepared(
    given: Given,
    suite_folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    only: str | Sequence[str],
    seeds: int | Sequence[int] | None,
    steps: int | None,
    epochs: float | None,
    device: str | None,
    threads: int | None,
    shortage: Shortage,
) -> Prepared:
    table, base, stem, where = _table(given, Path.cwd() / suite_folder)
    if seeds is not None:
        table["seeds"] = list(range(seeds) if isinstance(seeds, int) else seeds)
    if steps is not None and epochs is not None:
        raise SuiteError("--steps or --epochs: both say how long a training is; give one or the other")
    lengths: tuple[tuple[str, str, float | None], ...] = (("steps", "epochs", steps), ("epochs", "steps", epochs))
    for key, other, value in lengths:
        if value is not None:
            table["budget"] = {**table.get("budget", {}), key: value}
            table["budget"].pop(other, None)
    if steps is not None and isinstance(tune := table.get("tune"), Mapping) and "steps" in tune:
        table["tune"] = {**tune, "steps": steps}
    table |= {key: value for key, value in (("device", device), ("threads", threads)) if value is not None}
    suite = of(table, where)
    names = suite.only([only] if isinstance(only, str) else list(only))
    here = machine.look(suite.device, suite.threads)
    folder = Path(out) if out is not None else Path("results") / stem
    return Prepared(plan.make(suite, base, here, shortage), names, folder)


def _to_settle(asked: Prepared, shortage: Shortage, most: int | None) -> Prepared:
    """`asked`, with the seeds that may be added."""
    from bench.compare.looks import looks
    from bench.execute import settle

    whole = asked.plan
    suite, baseline = whole.suite, whole.suite.baseline_name
    if not suite.measure.quality or not any(cell.subject.model.pretrained for cell in whole.cells):
        raise SuiteError(
            "--settle: it adds seeds until quality is settled, and none is measured: [measure] has quality = false, or the "
            "model's weights are random"
        )
    if baseline not in asked.names:
        raise SuiteError(
            f"--settle: recipes are compared with {baseline}, which --only leaves out; add --only {baseline}"
        )
    if len(asked.names) == 1:
        raise SuiteError(f"--settle: there is no recipe to compare with {baseline}")
    every = looks(len(suite.seeds))
    at = settle.within(every, len(suite.seeds), most)
    seeds = settle.seeds(suite.seeds, at[-1])
    return replace(asked, plan=plan.make(suite, whole.suite_folder, whole.machine, shortage, seeds), looks=every, at=at)


def _table(given: Given, suite_folder: Path) -> tuple[dict[str, Any], Path, str, str]:
    """A suite's table, the folder that its paths are from, the name of its results, and what begins an error."""
    if isinstance(given, Suite):
        given = given.model_dump(exclude_unset=True)
    if isinstance(given, Mapping):
        recipes = given.get("recipes")
        if isinstance(recipes, Mapping):
            given = {**given, "recipes": {name: _text(recipe) for name, recipe in recipes.items()}}
        return dict(given), suite_folder, "python", ""
    path = Path(given)
    if not path.exists() and str(given) in (found := shipped()):
        path = found[str(given)]
    return read_table(path), path.parent, path.stem, f"{given}: "


def _text(recipe: object) -> object:
    return str(recipe) if isinstance(recipe, Recipe | Method) else recipe


def _executor(ray: Cluster | None, asked: Prepared, jobs: int | None) -> tuple[Executor, Slots]:
    """What runs the stages, and room for how many side by side."""
    from bench.execute import imports
    from bench.execute.slots import Slots, slots

    here = asked.plan.machine
    nodes = asked.plan.select(asked.names).nodes.values()
    types = {node.subject.model.model_type() for node in nodes}
    held = imports.of((node.stage for node in nodes), types, here.device)
    if ray is None:
        from bench.execute.forkserver import ForkServer

        return ForkServer(held), slots(here, jobs)
    ray.held = held
    return ray, Slots(ray.room(here) if jobs is None else jobs)


def _say(text: str, stream: Any = None) -> None:
    print(visible(text), file=stream, flush=True)


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """What the stages' processes are to find in the environment is no matter of the caller's other processes."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _interrupted_once(folder: Path, *, fresh: bool) -> Iterator[None]:
    """What the first Ctrl-C begins, ending the stage at work, a second does not disturb; and say what it leaves."""
    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    # Under nohup it is ignored; and only a program's main thread is told of signals.
    ours = before is not signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    try:
        if ours:
            signal.signal(signal.SIGINT, _interrupt)
        yield
    except KeyboardInterrupt:
        next_ = ". The same command begins anew" if fresh else "; the same command goes on from there"
        said = f"Everything that ended is recorded in {folder}{next_}."
        raise KeyboardInterrupt(said) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
