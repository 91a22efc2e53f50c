"""Plant each mistake, and see who notices: ``python -m tests.mutants [FAMILY …] [-k TEXT]``.

This process imports the libraries and nothing of ours. For each mutant it forks one that imports ours with the mistake
inside, and that forks in its turn: one process for the mutant's recipe, and where this ends ``ok``, one for pytest on the
method's own tests.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.testing import tiny
from tests.mutants import planting
from tests.mutants.planting import Mutant

LIBRARIES = [
    "torch", "torch.distributed.tensor", "torch.utils.flop_counter", "torch._dynamo", "torch.distributed.fsdp", "torch.nn.parallel",
    "transformers", "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama",
    "peft", "bitsandbytes", "torch_pruning", "pytest", "hypothesis", "pydantic", "scipy.stats", "pandas", "torch.profiler",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
]  # fmt: skip
"""Imported once, before any fork. What else a mutant needs is imported in its own process."""

SECONDS = {"recipe": 300.0, "tests": 1800.0}
"""How long a mutant's recipe, and its tests, may take."""

LEAST = 0.8
"""The share of a family's mutants that must be caught at run time."""


@dataclass(frozen=True)
class Seen:
    """How a recipe ended, why, and a digest of all that it measured and left; None of these where only tests ran."""

    status: str
    reason: str
    digest: str


@dataclass(frozen=True)
class Verdict:
    """Who noticed a mutant.

    ``run``: its evidence did not hold. ``loud``: the run ended neither ``ok`` nor ``invalid``. ``tests``: unit tests
    failed. ``neither``: nobody. ``equivalent``: nobody, and the result is what it is without the mistake. ``skipped``:
    the recipe does not run here even without it.
    """

    what: str
    reason: str


def main(arguments: Sequence[str]) -> int:
    """Run the families that are named, or all, and print the table; 0 where evidence catches what it should."""
    families = planting.families()
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description="Plant mistakes, and see who notices.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(families)}; all by default")
    parser.add_argument("-k", default="", metavar="TEXT", help="only mutants whose `method: why` holds this text")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="mutants side by side, 1 by default")
    parser.add_argument(
        "--run-only",
        action="store_true",
        help="leave unit tests out: what they would catch counts as caught by neither",
    )
    given = parser.parse_args(arguments)
    for name in given.families:
        if name not in families:
            parser.error(f"there is no family {name!r}; known: {', '.join(families)}")
    chosen = {
        family: [mutant for mutant in mutants if given.k in str(mutant)]
        for family, mutants in families.items()
        if not given.families or family in given.families
    }
    todo = [(family, mutant) for family, mutants in chosen.items() for mutant in mutants]
    if not todo:
        parser.error(f"no mutant's name holds {given.k!r}")
    for _, mutant in todo:
        mutant.planted()  # an error here, before anything runs
    _imported()
    with tempfile.TemporaryDirectory(prefix="methodbench-mutants-") as folder:
        bench = Bench(Path(folder), given.j, given.run_only)
        verdicts = bench.verdicts(todo)
    return _table(verdicts)


class Bench:
    """Where mutants are tried, `side_by_side` at a time."""

    def __init__(self, folder: Path, side_by_side: int, run_only: bool) -> None:
        self.folder, self.side_by_side, self.run_only = folder, side_by_side, run_only
        self.context = multiprocessing.get_context("fork")
        self.models = {name: folder / name for name in ("bert", "llama")}
        for name, path in self.models.items():
            process = self.context.Process(target=_make, args=(getattr(tiny, name), path))
            process.start()
            process.join()
            assert process.exitcode == 0, "the tiny models cannot be made"

    def verdicts(self, todo: Sequence[tuple[str, Mutant]]) -> list[tuple[str, Mutant, Verdict]]:
        """Of each mutant; the recipes, and the tests that matter, are run without any mistake too."""
        whole = {_key(mutant): mutant for _, mutant in todo}
        print(f"{len(todo)} mutants of {len(whole)} recipes", flush=True)
        bases: dict[str, Seen] = {}
        for mutant, seen in self._each([(mutant, False, "recipe") for mutant in whole.values()]):
            bases[_key(mutant)] = seen
        runs = [mutant for _, mutant in todo if bases[_key(mutant)].status == "ok"]
        ran = dict(self._each([(mutant, True, "recipe") for mutant in runs]))
        survivors = [mutant for mutant, seen in ran.items() if seen.status == "ok"]
        tested: dict[Mutant, Seen] = {}
        if not self.run_only:
            tested = dict(self._each([(mutant, True, "tests") for mutant in survivors]))
            suspects = {_tests(mutant): mutant for mutant, seen in tested.items() if seen.status != "ok"}
            for mutant, seen in self._each([(mutant, False, "tests") for mutant in suspects.values()]):
                if seen.status != "ok":
                    raise SystemExit(f"without any mistake the tests of {mutant.method} fail: {seen.reason}")
        found = []
        for family, mutant in todo:
            base = bases[_key(mutant)]
            seen, test = ran.get(mutant, base), tested.get(mutant, Seen("ok", "", ""))
            if mutant not in ran:
                verdict = Verdict("skipped", f"{base.status}: {base.reason}")
            elif seen.status != "ok":
                verdict = Verdict("run" if seen.status == "invalid" else "loud", f"{seen.status}: {seen.reason}")
            elif test.status != "ok":
                verdict = Verdict("tests", test.reason)
            else:
                same = seen.digest == bases[_key(mutant)].digest
                verdict = Verdict("equivalent" if same else "neither", "")
            found.append((family, mutant, verdict))
        return found

    def _each(self, work: Sequence[tuple[Mutant, bool, str]]) -> Iterator[tuple[Mutant, Seen]]:
        """Do all of it, each in a process of its own, telling of each that ends."""
        waiting, running = list(work), {}
        while waiting or running:
            while waiting and len(running) < self.side_by_side:
                mutant, planted, what = waiting.pop(0)
                ours, theirs = self.context.Pipe(duplex=False)
                folder = Path(tempfile.mkdtemp(dir=self.folder))
                process = self.context.Process(target=_alone, args=(theirs, mutant, planted, what, self.models, folder))
                process.start()
                theirs.close()
                running[ours] = (process, mutant, planted, what, time.monotonic())
            ends = [started + SECONDS[what] - time.monotonic() for *_, what, started in running.values()]
            ready = wait(list(running), max(0.0, min(ends)))
            late = [ours for ours, (*_, what, started) in running.items() if time.monotonic() > started + SECONDS[what]]
            for ours in {*ready, *late}:
                process, mutant, planted, what, started = running.pop(ours)
                try:
                    seen = ours.recv() if ours.poll() else Seen("timeout", f"after {SECONDS[what]:g} s", "")
                except EOFError:
                    process.join()
                    seen = Seen("failed", f"the process ended with status {process.exitcode}", "")
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.join()
                ours.close()
                left = f"{len(work) - len(waiting) - len(running)} of {len(work)}"
                label = f"{mutant}" if planted else f"{mutant.method} without a mistake: {mutant.recipe}"
                took = time.monotonic() - started
                print(f"[{left}, {what}] {label} — {seen.status}, {took:.1f} s {seen.reason[:300]}", flush=True)
                yield mutant, seen


def _key(mutant: Mutant) -> str:
    """Mutants of the same key are without their mistakes the same run."""
    return f"{mutant.recipe} {mutant.model} {sorted(mutant.keys.items())}"


def _tests(mutant: Mutant) -> tuple[str, ...]:
    """Arguments of pytest: the method's own tests and its part of the contract."""
    own = [
        str(path.relative_to(planting.ROOT)) for path in planting.ROOT.glob(f"tests/methods/*/test_{mutant.method}.py")
    ]
    files = sorted({*own, *mutant.tests})
    names = [Path(file).name for file in files] + [f"[{mutant.method}]", f"[{mutant.method}."]
    return (*files, "tests/contract/test_contract.py", "-k", " or ".join(names))


def _imported() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}
    os.chdir(planting.ROOT)
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:  # what libraries say while they are imported
        os.dup2(nothing.fileno(), 2)
        for name in LIBRARIES:
            importlib.import_module(name)
        os.dup2(kept, 2)
    gc.collect()
    gc.freeze()


# -- in a process forked from the one with the libraries ------------------------------------------------------------


def _make(make: Callable[[Path], Path], folder: Path) -> None:
    _log_to(Path(os.devnull))
    make(folder)


def _log_to(file: Path) -> None:
    with file.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _alone(
    connection: Connection, mutant: Mutant, planted: bool, what: str, models: dict[str, Path], folder: Path
) -> None:
    """Import ours, with the mistake inside if it is `planted`; then fork for the work, and for the stages in it that fork."""
    os.setpgid(0, 0)
    _log_to(folder / "log.txt")
    os.environ["METHODBENCH_CACHE"] = str(folder / "cache")
    try:
        if planted:
            planting.plant(mutant)
        from bench.recipe import registry

        list(registry.methods())  # which imports all
        from bench.models.registry import models
        from bench.tasks.registry import tasks

        tasks()
        models()
        jobs = importlib.import_module("bench.testing.jobs")
        jobs.THREADS = 1  # several would wait for each other where mutants run side by side
    except Exception as error:
        connection.send(Seen("failed", f"it cannot be imported: {error!r}", ""))
        return
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def apart(job: Any, without: tuple[str, str] | None = None) -> Any:
        """In a process that may fork: not this one, which has threads, but one made by the one that only imported."""
        theirs.send((job, without))
        return theirs.recv()

    jobs.apart = apart
    work: Callable[..., Seen] = _recipe if what == "recipe" else _pytest
    process = context.Process(target=_answer, args=(connection, work, mutant, models, folder))
    process.start()
    connection.close()
    while wait([ours, process.sentinel]) != [process.sentinel]:
        job, without = ours.recv()
        stage = context.Process(target=jobs._apart, args=(ours, job, without))
        stage.start()
        stage.join()
        if stage.exitcode:
            ours.send(("failed", f"the process ended with status {stage.exitcode}", {}))
    os._exit(process.exitcode or 0)


def _answer(connection: Connection, work: Callable[..., Seen], *arguments: Any) -> None:
    try:
        seen = work(*arguments)
    except Exception as error:
        seen = Seen("failed", repr(error), "")
    connection.send(seen)


def _recipe(mutant: Mutant, models: dict[str, Path], folder: Path) -> Seen:
    from bench.testing import jobs

    keys = dict(mutant.keys)
    if keys.get("task") == "prose":
        keys["task"] = jobs.prose(folder)
    status, reason, records = jobs.run(mutant.recipe, models[mutant.model], folder, **keys)
    found = hashlib.blake2b()
    if status == "ok":
        for record in records:
            found.update(repr(_settled(record)).encode())
        for file in sorted((folder / "checkpoints").iterdir()):
            found.update(file.read_bytes())
    return Seen(status, reason, found.hexdigest())


def _settled(record: Any) -> Any:
    """What of a record does not differ from run to run, nor is what evidence says."""
    clocks = ("second", "evidence", "trust", "latency", "peak", "time")
    if isinstance(record, dict):
        return {key: _settled(value) for key, value in record.items() if not any(part in key for part in clocks)}
    if isinstance(record, list | tuple):
        return [_settled(value) for value in record]
    return record


def _pytest(mutant: Mutant, models: dict[str, Path], folder: Path) -> Seen:
    import pytest

    failed: list[str] = []

    class Reports:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(f"{report.nodeid.rpartition('::')[2]} {report.when}")

    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'pytest'}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # what is imported already is not rewritten
    status = pytest.main([*_tests(mutant), *options], plugins=[Reports()])
    if status in (0, 1):
        return Seen("failed" if failed else "ok", ", ".join(failed), "")
    raise RuntimeError(f"pytest ended with {status!r}: {(folder / 'log.txt').read_text()[-2000:]}")


# -- the table -------------------------------------------------------------------------------------------------------


def _table(verdicts: Sequence[tuple[str, Mutant, Verdict]]) -> int:
    """Print it; 1 where a family has a mutant that nobody caught or that could not be tried, or evidence caught too few."""
    for what, said in (
        ("tests", "caught by tests alone"),
        ("loud", "ended otherwise"),
        ("skipped", "not tried, for its recipe does not run here"),
        ("equivalent", "the same result as without it: not counted, take it out or give it another recipe"),
        ("neither", "caught by neither"),
    ):
        for _, mutant, verdict in verdicts:
            if verdict.what == what:
                print(f"{said}: {mutant} ({mutant.recipe}) {verdict.reason[:200]}")
                print(f"    {mutant.file}: {mutant.old!r}\n    -> {mutant.new!r}")
    head = ("family", "mutants", "at run time", "by tests alone", "neither", "ended otherwise", "% at run time")
    print("\n" + "  ".join(head))
    short = False
    families = list(dict.fromkeys(family for family, *_ in verdicts))
    for family in [*families, "all"]:
        count = Counter(verdict.what for own, _, verdict in verdicts if family in (own, "all"))
        counted = count["run"] + count["tests"] + count["neither"]
        share = count["run"] / counted if counted else 1.0
        values = (
            counted + count["loud"],
            count["run"],
            count["tests"],
            count["neither"],
            count["loud"],
            f"{100 * share:.0f}",
        )
        print(
            "  ".join(f"{value:>{len(title)}}" for title, value in zip(head, (f"{family:<22}", *values), strict=True))
        )
        short |= family != "all" and (share < LEAST or count["neither"] + count["skipped"] > 0)
    return int(short)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
