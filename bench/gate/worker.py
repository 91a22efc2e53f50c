"""What runs in the environment of a side: ``python -P -m bench.gate.worker ACTION …``, one JSON object a line.

``prepare`` runs the suite once, so that there are records and checkpoints, and says what can be timed. ``time`` is a fresh
process of a pair: it imports everything once and forks a child for each case, so that no case finds the memory that
another left. It begins with ``{"hello": {module: file}}``. A child prepares its case and warms up, says so, and then works only when it is told to, so that the two
workers of a pair take turns:

    {"do": "case", "name": …, "beside": n}      → {"ready": {metric: seconds of one piece of work}}
    {"do": "repeat", "pieces": {metric: n}}     → {"repeat": {metric: {"wall": …, "cpu": …, "cuda": …}}}
    {"do": "profile", "pieces": {metric: n}}    → {"profile": {operator: seconds}}
    {"do": "end"}                               → {"end": {"held": {metric: bytes}, "trust": {…}}}

What goes wrong is ``{"error": …}``. The parent must read all that is written, and closes the pipe to end it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bench.gate.case import SCRIPT_BYTES, SCRIPT_SECONDS, Case, Kind
from bench.measure.turns import Timing

if TYPE_CHECKING:
    import torch

    from bench.measure.clock import Clocks
    from bench.measure.latency import Pass
    from bench.metrics.families.latency import Phase
    from bench.plan.plan import Node, Plan
    from bench.stage.job import Job
    from bench.suite.suite import Measure

    Work = tuple[Kind, Job | str]

PROTOCOL = 1
"""Of the messages above; two sides that differ in it cannot be compared."""

JOBS = "jobs.pickle"
"""In a side's folder: its jobs by the name of their case. Written and read by the same environment."""

MOST_STEPS = 10**6
"""Of a training that ends when nobody asks for more steps. Schedules are then at their beginning all the time."""

WARMUPS = 2
"""Steps of a training before it is timed: the first makes the optimizer's state."""


def main() -> None:
    """Do what the command line says. Standard output is the protocol's alone: what else is printed goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    action, *arguments = sys.argv[1:]

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        if action == "prepare":
            say(prepare(json.loads(sys.stdin.read())))
        else:
            serve(Path(arguments[0]), arguments[1:], sys.stdin, say)
    except Exception as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from None


# -- prepare -------------------------------------------------------------------------------------------------------


def prepare(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run the suite and say what can be timed, where the packages under test come from, and what this machine is.

    `asked`: ``suite`` (its table), ``suite_folder`` that paths in it are from, ``folder`` for the records, ``measure`` (what
    of the suite's table of that name is to be measured otherwise), ``scripts``, and ``modules`` whose files are to be named.
    """
    from bench.execute import suites
    from bench.machine import machine
    from bench.suite.suite import Measure, of

    os.chdir(asked["suite_folder"])
    table, folder = asked["suite"], Path(asked["folder"])
    identity = _own(folder, asked)
    given = of(table)
    if len(given.models) > 1 or len(given.tasks) > 1:
        raise ValueError("a gate is of one model and one task; make a suite of each")
    # What the code under test may not know yet, and no gate asks for: its pairs are the gate's own turns.
    unasked = {key: value for key, value in (("references", False), ("turns", 0)) if key in Measure.model_fields}
    run = {**table, "measure": {**table.get("measure", {}), **asked["measure"], **unasked}}
    plan = suites.prepare(run, out=folder).plan
    result = suites.run(run, out=folder, keep=given.seeds[:1])
    cases, jobs = _cases(plan, given.measure, folder)
    cases += [Case(f"{name}: run", name, "script", (SCRIPT_SECONDS,), (SCRIPT_BYTES,)) for name in asked["scripts"]]
    jobs |= {f"{name}: run": ("script", line) for name, line in asked["scripts"].items()}
    (folder / JOBS).write_bytes(pickle.dumps(jobs))
    return {
        "protocol": PROTOCOL,
        "identity": identity,
        "cases": [asdict(case) for case in cases],
        "statuses": dict(result.statuses),
        "modules": {name: _file(name) for name in asked["modules"]},
        "environment": machine.environment(plan.machine, plan.suite_folder),
        "suite": given.model_dump(mode="json", exclude={"gate", "title"}),
    }


def _own(folder: Path, asked: Mapping[str, Any]) -> str:
    """See to it that `folder` has nothing of other code or of another question: records do not say of which code they are.

    Returns what all measurements here depend on, as a hash: what is asked, the interpreter, and all sources of methodbench and
    of the packages that register something with it.
    """
    groups = ("methods", "tasks", "task_kinds", "models", "metrics")
    points = [point for group in groups for point in entry_points(group=f"methodbench.{group}")]
    modules = {"bench", *asked["modules"], *(point.module.split(".")[0] for point in points)}
    digest = hashlib.sha256(json.dumps([asked, sys.executable, sys.version], sort_keys=True).encode())
    for module in sorted(modules):
        place = Path(_file(module))
        for file in sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]:
            digest.update(str(file).encode())
            digest.update(file.read_bytes())
    identity, kept = digest.hexdigest(), folder / "identity"
    if not kept.is_file() or kept.read_text(encoding="ascii") != identity:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept.write_text(identity, encoding="ascii")
    return identity


def _cases(plan: Plan, measure: Measure, folder: Path) -> tuple[list[Case], dict[str, Work]]:
    from bench.execute.run import job_of
    from bench.metrics.families.latency import latency

    cases: list[Case] = []
    jobs: dict[str, Work] = {}
    trained: dict[str, str] = {}
    for cell in plan.cells:
        if cell.seed != plan.suite.seeds[0] or cell.refused:
            continue
        nodes = cell.trainings
        phases: tuple[Phase, ...] = ("prefill", "decode") if cell.subject.task.generates else ("forward",)
        timed = tuple(latency(*shape, "wall", phase).name for shape in measure.latency for phase in phases)
        kinds: list[tuple[Kind, Node, tuple[str, ...], tuple[str, ...]]] = []
        if nodes:
            kinds.append(("train", nodes[-1], ("train_tokens_per_second",), ("train_peak_bytes",)))
        if timed:
            kinds.append(("serve", cell.path[-1], timed, ("inference_peak_bytes",)))
        for kind, node, metrics, held in kinds:
            name = f"{cell.name}: {kind}"
            refused = ""
            if kind == "train":
                other = trained.setdefault(node.id, cell.name)
                if other != cell.name:
                    refused = f"its last training is that of {other}, which is timed there"
                elif node.processes > 1:
                    refused = f"{node.processes} processes divide its training, and cannot take turns with others"
            cases.append(Case(name, cell.name, kind, metrics, held, refused))
            jobs[name] = (kind, replace(job_of(node, plan, folder), measure=measure))
    return cases, jobs


def _file(module: str) -> str:
    from importlib.util import find_spec

    spec = find_spec(module)
    return "" if spec is None else str(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))


# -- time ----------------------------------------------------------------------------------------------------------


def serve(folder: Path, modules: Sequence[str], stdin: TextIO, say: Callable[[Mapping[str, Any]], None]) -> None:
    """Say where `modules` come from, then do cases, each in a child of its own, until there is nothing more to read."""
    from bench.execute import imports
    from bench.execute.worker import follow

    follow(os.getppid())
    jobs: dict[str, Work] = pickle.loads((folder / JOBS).read_bytes())
    staged = [job for _, job in jobs.values() if not isinstance(job, str)]
    types = {job.source().model_type() for job in staged}
    device = staged[0].machine.device if staged else "cpu"
    imports.of((stage for job in staged for stage in job.stages), types, device).hold()
    say({"hello": {name: _file(name) for name in modules}})
    while line := stdin.readline():
        asked = json.loads(line)
        if child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status:
                what = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                say({"error": f"{asked['name']}: its process {what}"})
            continue
        follow(os.getppid())
        try:
            _case(*jobs[asked["name"]], asked.get("beside", 0), stdin, say)
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{asked['name']}: {type(error).__name__}: {error}"})
        except BaseException:
            os._exit(1)
        sys.stderr.flush()
        os._exit(0)


@dataclass(frozen=True)
class Ready:
    """A case that is warm. ``repeat`` does so many pieces of work of a metric and gives the seconds of one unit; ``held``
    are bytes, None where they cannot be known; ``phases`` are the parts of a step, for a profile."""

    repeat: Mapping[str, Callable[[int], Timing]]
    held: Mapping[str, int | None]
    device: torch.device | None = None


def _case(kind: Kind, job: Job | str, beside: int, stdin: TextIO, say: Callable[[Mapping[str, Any]], None]) -> None:
    import torch

    from bench.measure.trust import Contention

    if isinstance(job, str):
        prepared = _script(job)
    else:
        if job.machine.device == "cpu":
            job = replace(job, machine=replace(job.machine, threads=1))
        torch.set_num_threads(job.machine.threads)
        prepared = _training(job) if kind == "train" else _serving(job)
    with prepared as ready:
        say({"ready": {metric: _seconds(repeat) for metric, repeat in ready.repeat.items()}})
        with Contention(ready.device, beside=beside) as contention:
            while line := stdin.readline():
                asked = json.loads(line)
                if asked["do"] == "end":
                    break
                pieces = asked["pieces"]
                if asked["do"] == "repeat":
                    say({"repeat": {metric: asdict(ready.repeat[metric](n)) for metric, n in pieces.items()}})
                else:
                    say({"profile": _profile(ready, pieces)})
        say({"end": {"held": dict(ready.held), "trust": contention.result()}})


def _seconds(repeat: Callable[[int], Timing]) -> float:
    """Wall seconds of one piece of work, when it is warm."""
    began = time.perf_counter()
    repeat(1)
    return time.perf_counter() - began


@contextlib.contextmanager
def _training(job: Job) -> Iterator[Ready]:
    import torch

    from bench.measure.peak import Peak
    from bench.stage import stage, turns

    device = torch.device(job.machine.device)
    source, task = stage.opened(job)
    peak = Peak(device)
    training, clocks = turns.begin(job, source, task, at_least=MOST_STEPS)
    training.loss = _named("forward", training.loss)
    training.gradients = _named("forward and backward", training.gradients)
    training.update = _named("update", training.update)
    peak.start()
    repeat = turns.taking(training, clocks)
    repeat(WARMUPS)
    yield Ready({"train_tokens_per_second": repeat}, {"train_peak_bytes": peak.stop()}, device)


@contextlib.contextmanager
def _serving(job: Job) -> Iterator[Ready]:
    import torch

    from bench.measure import latency
    from bench.measure.clock import Clocks
    from bench.measure.peak import Peak
    from bench.metrics.families.latency import latency as metric
    from bench.stage import serve
    from bench.tasks.registry import open_task

    device = torch.device(job.machine.device)
    clocks = Clocks(device)
    task = open_task(job.task, job.suite_folder)
    options: dict[str, Any] = {"generates": task.generates, "choices": task.choices}
    peak = Peak(device)
    with tempfile.TemporaryDirectory(prefix="methodbench-") as folder, contextlib.ExitStack() as stack:
        model, tokenizer, _ = serve.load(job, Path(folder))
        peak.start()
        repeats: dict[str, Callable[[int], Timing]] = {}
        for shape in job.measure.latency:
            phases = stack.enter_context(latency.ready(model, tokenizer, shape, device, **options))
            for phase, (one, parts) in phases.items():
                repeats[metric(*shape, "wall", phase).name] = _repeating(one, parts, clocks, device)
        for repeat in repeats.values():
            repeat(1)
        held = peak.stop()
        for repeat in repeats.values():
            repeat(WARMUPS)
        yield Ready(repeats, {"inference_peak_bytes": held}, device)


def _repeating(one: Pass, parts: int, clocks: Clocks, device: torch.device) -> Callable[[int], Timing]:
    import torch

    def repeat(pieces: int) -> Timing:
        for _ in range(pieces):
            given = () if one.fresh is None else (one.fresh(),)
            clocks.start()
            one.run(*given)
            clocks.stop()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return clocks.take(pieces * parts)

    return repeat


@contextlib.contextmanager
def _script(line: str) -> Iterator[Ready]:
    """A script's whole process, and those that it waited for: their CPU time and the most that one of them held."""
    held = {SCRIPT_BYTES: 0}

    def repeat(pieces: int) -> Timing:
        wall = cpu = 0.0
        for _ in range(pieces):
            found = json.loads(subprocess.run(
                [sys.executable, "-I", "-S", "-c", LAUNCH, sys.executable, *shlex.split(line)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
            ).stdout)  # fmt: skip
            if found["status"]:
                raise RuntimeError(f"`python {line}` ended with status {found['status']}")
            wall += found["wall"]
            cpu += found["cpu"]
            held[SCRIPT_BYTES] = max(held[SCRIPT_BYTES], found["held"])
        return Timing(wall / pieces, cpu / pieces)

    yield Ready({SCRIPT_SECONDS: repeat}, held)


LAUNCH = """\
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
json.dump({
    "wall": time.perf_counter() - began,
    "cpu": usage.ru_utime + usage.ru_stime,
    "held": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    "status": os.waitstatus_to_exitcode(status),
}, sys.stdout)
"""
"""Starts a script from a small process: the kernel counts, among what a process held, what its parent did when it began."""


def _named(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    """`inner`, which a profile shows as the phase `name`."""
    from torch.profiler import record_function

    def call(*arguments: Any) -> Any:
        with record_function(PHASE + name):
            return inner(*arguments)

    return call


PHASE = "phase: "
"""What the names of phases begin with in a profile."""


def _profile(ready: Ready, pieces: Mapping[str, int]) -> dict[str, float]:
    """Seconds of one piece of work, by operator (its own time) and by phase (all in it)."""
    from torch.profiler import ProfilerActivity, profile

    if ready.device is None:
        return {}
    on_gpu = ready.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for metric, number in pieces.items():
            ready.repeat[metric](number)
    found = {}
    for event in profiler.key_averages():
        phase = event.key.startswith(PHASE)
        spent = (
            (event.device_time_total if phase else event.self_device_time_total)
            if on_gpu
            else (event.cpu_time_total if phase else event.self_cpu_time_total)
        )
        found[event.key] = spent / 1e6 / sum(pieces.values())
    return found


if __name__ == "__main__":
    main()
