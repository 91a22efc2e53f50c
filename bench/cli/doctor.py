"""What ``methodbench doctor`` says: what this machine can measure, and how far its clocks can be trusted."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.say import say
from bench.machine.machine import Machine, look, satisfies, visible_gpus
from bench.metrics.units import counted, show
from bench.recipe import registry

SPREAD = 0.1
"""Up to this spread a clock is steady; 0.05 to 0.08 was seen on a quiet machine."""
WAITING = 0.01
"""Share of time without a core, up to which one thread counts as undisturbed."""
OTHERS = 0.1
"""Share of the machine's cores, up to which other programs count as quiet."""

_REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: "missing" does not work here, "warn" works with a reservation."""

    name: str
    state: Literal["ok", "warn", "missing"]
    text: str


@dataclass(frozen=True)
class Noise:
    """How steady a fixed workload ran on one thread.

    Spreads are (90th − 10th percentile) / median. ``waiting`` is the share of wall time in which the thread
    was ready and had no core, ``others`` the cores that other programs and other virtual machines kept busy
    meanwhile; None where the kernel does not say.
    """

    wall_spread: float
    cpu_spread: float
    waiting: float | None
    others: float | None


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Objects with name, state and text.")] = False,
) -> None:
    """Say what this machine has, what cannot run here and why, and how noisy it is."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in examine(look())], indent=2, ensure_ascii=False))
        return
    marks = {"ok": "ok     ", "warn": "warning", "missing": "missing"}
    for finding in examine(look()):
        say(f"{marks[finding.state]}  {finding.name}: {finding.text}")


def examine(machine: Machine, *, samples: int = 20) -> list[Finding]:
    """Look at everything; takes about a second, most of it for `samples` of the fixed workload."""
    return [
        _packages(machine),
        _threads(machine),
        _device(machine),
        *_methods(machine),
        _peak_memory(),
        _run_queue(),
        _compiler(),
        _disk(Path.cwd()),
        judge(noise(samples), machine.cores),
    ]


def noise(samples: int = 20) -> Noise:
    """Time a fixed workload of pure Python, about 50 ms of it a sample."""
    walls, cpus = [], []
    began, waited, busy, own = time.perf_counter(), _waited(), _busy(), time.process_time()
    for _ in range(samples):
        wall, cpu = time.perf_counter(), time.thread_time()
        sum(i * i for i in range(1_000_000))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
    waited_after, busy_after, elapsed = _waited(), _busy(), time.perf_counter() - began
    own = time.process_time() - own
    return Noise(
        wall_spread=spread(walls),
        cpu_spread=spread(cpus),
        waiting=None if waited is None or waited_after is None else (waited_after - waited) / elapsed,
        others=None if busy is None or busy_after is None else max(0.0, busy_after - busy - own) / elapsed,
    )


def spread(values: Sequence[float]) -> float:
    """(90th − 10th percentile) / median."""
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return (tenths[8] - tenths[0]) / statistics.median(values)


def judge(seen: Noise, cores: int) -> Finding:
    """What follows from `seen`, in words."""
    figures = f"spread of wall time {seen.wall_spread:.1%}, of CPU time {seen.cpu_spread:.1%}"
    if seen.waiting is not None:
        figures += f"; {seen.waiting:.1%} of the time waiting for a core"
    if seen.others is not None:
        figures += f"; others keep {seen.others:.1f} of {cores} cores busy"
    crowded = (seen.waiting or 0) > WAITING or (seen.others or 0) > OTHERS * cores
    if seen.cpu_spread > SPREAD:
        advice = (
            "not even CPU time is steady (the clock rate changes, or other programs share the caches): close "
            "other programs, or raise measure.latency_processes and trust only large differences"
        )
    elif crowded:
        advice = (
            "other programs are running, so wall times come out too long, those of several threads most of "
            "all: close them, or compare CPU time (cpu_latency) only"
        )
    elif seen.wall_spread > SPREAD:
        advice = "wall time is not steady, CPU time is: compare CPU time (cpu_latency), or find a quiet hour"
    else:
        return Finding("noise", "ok", f"{figures}: quiet now, so wall time can be compared as well")
    return Finding("noise", "warn", f"{figures}: {advice}")


def _packages(machine: Machine) -> Finding:
    versions = dict(machine.versions)
    text = ", ".join([f"Python {machine.python}", *(" ".join(pair) for pair in machine.versions)])
    if missing := [name for name in _REQUIRED if name not in versions]:
        mend = f"pip install {' '.join(missing)}"
        return Finding("packages", "missing", f"{', '.join(missing)}: {mend} (there are: {text})")
    return Finding("packages", "ok", text)


def _threads(machine: Machine) -> Finding:
    text = f"{counted(machine.threads, 'thread')} on {counted(machine.cores, 'core')}, {show(machine.memory, 'B')} of memory"
    if machine.threads > machine.cores:
        mend = f"set threads = {machine.cores}"
        return Finding("threads", "warn", f"{text}: more threads than cores wait for each other; {mend}")
    features = f" ({', '.join(machine.cpu_features)})" if machine.cpu_features else ""
    return Finding("threads", "ok", f"{text}: {machine.cpu}{features}")


def _device(machine: Machine) -> Finding:
    if machine.device == "cuda":
        return Finding("device", "ok", f"cuda: {machine.device_name}, {machine.gpus} visible")
    if machine.gpus:
        torch = dict(machine.versions).get("torch", "")
        cause = f"torch {torch} is built for CPUs only" if torch.endswith("+cpu") else "the CPU was asked for"
        return Finding("device", "warn", f"cpu, though {counted(machine.gpus, 'GPU')} can be seen: {cause}")
    return Finding("device", "ok", f"cpu: {visible_gpus()[1]}")


def _methods(machine: Machine) -> Iterator[Finding]:
    try:
        methods = registry.methods()
    except registry.RegistryError as error:
        yield Finding("methods", "missing", f"{error}; mend or uninstall the package that registers it")
        return
    absent = {name: [need for need in cls.needs if not _installed(need)] for name, cls in methods.items()}
    ready = [name for name, needs in absent.items() if not needs]
    text = f"{len(ready)} of {len(methods)} have all the packages they need"
    yield Finding("methods", "ok" if ready else "missing", text)
    for name, needs in absent.items():
        if needs:
            packages = [need.split(".")[0].replace("_", "-") for need in needs]
            mend = f"pip install {' '.join(packages)}"
            yield Finding(f"method {name}", "missing", f"needs {', '.join(packages)}: {mend}")
    for name, cls in methods.items():
        for broken in cls.breaks_with:
            if satisfies(machine, broken.versions):
                yield Finding(f"method {name}", "warn", str(broken))


def _installed(package: str) -> bool:
    # Of a dotted name, only the first part: looking for the rest would import it.
    return importlib.util.find_spec(package.split(".")[0]) is not None


def _peak_memory() -> Finding:
    try:
        # What the measurement itself does: the kernel's high-water mark of this process begins anew.
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError as error:
        text = f"cannot be measured on the CPU: /proc/self/clear_refs: {error.strerror}"
        return Finding("peak memory", "missing", text)
    return Finding("peak memory", "ok", "the kernel keeps it, and can be told where to begin")


def _run_queue() -> Finding:
    if _waited() is None:
        text = "the kernel does not say how long a thread waits for a core: contention may go unseen"
        return Finding("waiting", "missing", text)
    return Finding("waiting", "ok", "the kernel says how long a thread waits for a core")


def _compiler() -> Finding:
    # The names that torch's inductor tries.
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return Finding("compiler", "ok", f"{found}, for torch.compile")
    return Finding("compiler", "missing", "no C++ compiler; torch.compile on a CPU needs one: install g++")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{show(free, 'B')} free in {folder}"
    if free < 2e9:
        return Finding("disk", "warn", f"{text}: checkpoints of a run may not fit; free some space")
    return Finding("disk", "ok", text)


def _waited() -> float | None:
    """Seconds that this thread has waited for a core."""
    try:
        ran, waited, _ = (_PROC / "thread-self" / "schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    # A kernel that does not count leaves all at 0, and no thread gets here in no time.
    return int(waited) / 1e9 if int(ran) else None


def _busy() -> float | None:
    """Core-seconds that the whole machine has been busy, or was kept from us by other virtual machines."""
    try:
        with (_PROC / "stat").open() as lines:
            ticks = [int(part) for part in lines.readline().split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
