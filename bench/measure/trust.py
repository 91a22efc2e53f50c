"""Whether a timing can be trusted: what the machine did to this process while it was taken.

Readings are taken before and after, and nothing runs between. A low spread of timings does not prove a quiet
machine (contention can be steady), so the kernel is asked instead how long threads waited. Load average is
kept for readers but not judged by: it counts this process too, and forgets over a minute.
"""

from __future__ import annotations

import functools
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

WAIT_SHARE = 0.05
"""Threads waited for a CPU this share of the time that they ran: steps slow by as much or more."""

WAIT_FLOOR = 0.01
"""Seconds of waiting below which nothing is said: a few wake-ups wait that long together."""

STEAL_SHARE = 0.02
"""The hypervisor took this share of the CPU time that was wanted: from there on, two runs differ."""

STEAL_FLOOR = 0.05
"""Seconds below which stolen time is not judged: the kernel counts in ticks, of 10 ms mostly."""

MAJOR_FAULTS_PER_SECOND = 10
"""A major fault waits for a disk, 0.1 to 10 ms: at this rate it may be a tenth of the time."""

GPU_SLOWDOWN_SHARE = 0.01
"""The GPU's clock was held down by heat this share of the time."""


@dataclass(frozen=True)
class GpuReading:
    """NVML's figures: ``slowed`` are clock event reasons, ``hot`` seconds held down by heat, ``others`` the processes
    beside this one that hold memory there. Of several GPUs, the worst of each.
    """

    clock_mhz: int | None
    slowed: int | None
    hot: float | None
    others: int | None = None


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; None where the system has none.

    ``wall``, ``cpu`` (of this process), ``wanted`` and ``stolen`` (of the machine) are in seconds;
    ``threads`` maps each thread's id to the seconds it has run and has waited for a CPU; ``throttled`` is how
    often and how many seconds the control group was stopped for using up its quota.
    """

    wall: float
    cpu: float
    threads: Mapping[int, tuple[float, float]] | None = None
    wanted: float | None = None
    stolen: float | None = None
    throttled: tuple[int, float] | None = None
    major_faults: int | None = None
    load: float | None = None
    gpu: GpuReading | None = None


class Contention:
    """Watches a block for contention::

        with Contention(device) as contention:
            ...
        record["trust"] = contention.result()

    ``device`` is torch's; on CUDA the GPU is looked at as well, where NVML is there, and where the process works on
    several, those from the first on; so many processes ``beside`` this one, which wait while it works, may be there too.
    Costs well under a millisecond a reading and raises nowhere.
    """

    def __init__(self, device: Any = None, gpus: int = 1, beside: int = 0) -> None:
        self._gpu = _Gpus(device, gpus, beside) if getattr(device, "type", None) == "cuda" else None
        self._before: Reading | None = None
        self._after: Reading | None = None

    def __enter__(self) -> Self:
        self._before = read(self._gpu)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after = read(self._gpu)

    def result(self) -> dict[str, Any]:
        """The figures of :func:`judge`, for the block so far or as a whole."""
        assert self._before is not None, "not entered"
        return judge(self._before, self._after or read(self._gpu))


def judge(before: Reading, after: Reading) -> dict[str, Any]:
    """What happened between two readings: raw figures, ``contended``, and ``reason`` ("" if it was not).

    Figures are in seconds; None where there is none. ``waited_seconds`` is a lower bound: threads that ended
    on the way took their figures with them, and ``threads_gone`` says how many of those known before did.
    """
    wall = after.wall - before.wall
    cpu = after.cpu - before.cpu
    figures: dict[str, Any] = {"wall_seconds": wall, "cpu_seconds": cpu, "load_average": after.load}
    reasons: list[str] = []

    ran = waited = gone = None
    if before.threads is not None and after.threads is not None:
        ran, waited = _thread_seconds(before.threads, after.threads)
        gone = len(before.threads.keys() - after.threads.keys())
        if waited > WAIT_FLOOR and waited > WAIT_SHARE * ran:
            share = f"{waited / ran:.0%} of the {ran:.2g} s that they ran" if ran else "and did not run"
            reasons.append(f"threads waited {waited:.2g} s for a CPU, {share}")
    figures |= {"ran_seconds": ran, "waited_seconds": waited, "threads_gone": gone}

    stolen = _difference(before.stolen, after.stolen)
    wanted = _difference(before.wanted, after.wanted)
    if stolen is not None and wanted is not None and stolen > STEAL_FLOOR and stolen > STEAL_SHARE * wanted:
        reasons.append(f"the hypervisor took {stolen / wanted:.0%} of the CPU time")
    # Others' CPU time is for readers: on a machine with cores to spare it does no harm.
    others = None if wanted is None or stolen is None else max(0.0, wanted - stolen - cpu)
    figures |= {"stolen_seconds": stolen, "others_cpu_seconds": others}

    throttled = throttled_seconds = None
    if before.throttled is not None and after.throttled is not None:
        throttled = after.throttled[0] - before.throttled[0]
        throttled_seconds = after.throttled[1] - before.throttled[1]
        if throttled > 0:
            reasons.append(f"the CPU quota of the control group stopped it {throttled} times")
    figures |= {"throttled": throttled, "throttled_seconds": throttled_seconds}

    faults = None
    if before.major_faults is not None and after.major_faults is not None:
        faults = after.major_faults - before.major_faults
        if faults > max(1.0, wall) * MAJOR_FAULTS_PER_SECOND:
            reasons.append(f"{faults} page faults waited for a disk")
    figures["major_faults"] = faults

    if after.gpu is not None:
        hot = _difference(before.gpu.hot if before.gpu else None, after.gpu.hot)
        figures |= {"gpu_clock_mhz": after.gpu.clock_mhz, "gpu_slowed": after.gpu.slowed}
        figures["gpu_hot_seconds"] = hot
        others = _most(reading.others for reading in (before.gpu, after.gpu) if reading)
        figures["gpu_other_processes"] = others
        if others:
            reasons.append(f"other processes are on the GPU ({others})")
        slowed = [text for bit, text in _SLOWED.items() if (after.gpu.slowed or 0) & bit]
        if slowed:
            reasons.append(f"the GPU's clock was held down ({', '.join(slowed)})")
        elif hot is not None and hot > GPU_SLOWDOWN_SHARE * wall:
            reasons.append(f"the GPU's clock was held down by heat for {hot / wall:.0%} of the time")
    return {**figures, "contended": bool(reasons), "reason": "; ".join(reasons)}


def spoils_cpu_time(figures: Mapping[str, Any]) -> str:
    """Of the figures of :func:`judge`, what spoils the CPU time of a thread: it goes on while a hypervisor has the CPU.

    Waiting does not: a thread that waits for a CPU uses none.
    """
    stolen = figures.get("stolen_seconds") or 0.0
    wanted = stolen + (figures.get("others_cpu_seconds") or 0.0) + (figures.get("cpu_seconds") or 0.0)
    if stolen > STEAL_FLOOR and stolen > STEAL_SHARE * wanted:
        return f"the hypervisor took {stolen / wanted:.0%} of the CPU time"
    return ""


def against(figures: Mapping[str, Any], clock: str) -> str:
    """Of the figures of :func:`judge`, what speaks against a time by the `clock`: "cpu", of one thread, "cuda" or "wall"."""
    if clock == "cpu":
        return spoils_cpu_time(figures)
    return (figures.get("reason") or "the machine was busy") if figures["contended"] else ""


def _thread_seconds(
    before: Mapping[int, tuple[float, float]], after: Mapping[int, tuple[float, float]]
) -> tuple[float, float]:
    """Seconds that the threads ran and waited. One that is new counts from its birth."""
    total_ran = total_waited = 0.0
    for thread, (ran, waited) in after.items():
        ran_before, waited_before = before.get(thread, (0.0, 0.0))
        if ran_before > ran:  # another thread that was given an old one's id
            ran_before = waited_before = 0.0
        total_ran += ran - ran_before
        total_waited += waited - waited_before
    return total_ran, total_waited


def _most(values: Iterable[float | None]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


# -- readings


def read(gpu: _Gpus | None = None) -> Reading:
    """The counters now."""
    wanted, stolen = _machine()
    return Reading(
        wall=time.perf_counter(),
        cpu=time.process_time(),
        threads=_threads(),
        wanted=wanted,
        stolen=stolen,
        throttled=_throttled(),
        major_faults=_major_faults(),
        load=_load(),
        gpu=gpu.read() if gpu else None,
    )


def _text(path: str | Path) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - half the time of a Path, for every thread
            return file.read()
    except (OSError, ValueError):
        return ""


def _threads() -> dict[int, tuple[float, float]] | None:
    """From /proc/<pid>/schedstat: nanoseconds on a CPU, nanoseconds on a run queue, time slices."""
    try:
        ids = os.listdir("/proc/self/task")  # noqa: PTH208 - names, and cheap
    except OSError:
        return None
    threads = {}
    for thread in ids:
        fields = _text(f"/proc/self/task/{thread}/schedstat").split()
        if len(fields) == 3:
            threads[int(thread)] = (int(fields[0]) / 1e9, int(fields[1]) / 1e9)
    return threads or None


def _machine() -> tuple[float | None, float | None]:
    """CPU seconds that the machine wanted and that the hypervisor took, since boot, from /proc/stat."""
    fields = _text("/proc/stat").partition("\n")[0].split()
    if len(fields) < 9:
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    tick: float = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / tick, steal / tick


def _throttled() -> tuple[int, float] | None:
    """Over this process's control group and all above it: a quota anywhere on the way stops it."""
    times, seconds, seen = 0, 0.0, False
    for path in _cpu_stats():
        values = dict(pair for line in _text(path).splitlines() if len(pair := line.split()) == 2)
        if "nr_throttled" in values:
            seen = True
            times += int(values["nr_throttled"])
            seconds += int(values.get("throttled_usec", 0)) / 1e6 + int(values.get("throttled_time", 0)) / 1e9
    return (times, seconds) if seen else None


@functools.cache
def _cpu_stats() -> tuple[Path, ...]:
    """The cpu.stat files, of control groups of both versions."""
    root = Path("/sys/fs/cgroup")
    found: list[Path] = []
    for line in _text("/proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0":
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        relative = Path(group.lstrip("/"))
        # In a container the group's path is often the host's, and what is mounted is the group itself.
        found += [mount / part / "cpu.stat" for mount in mounts for part in (relative, *relative.parents)]
    unique = {path.resolve(): path for path in found if path.is_file()}
    return tuple(unique.values())


def _major_faults() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


_SLOWED = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""NVML's clock event reasons. The power cap, 0x04, is not here: it is many GPUs' normal state under load."""


class _Gpus:
    """The GPUs of a process in NVML; reads None wherever NVML, or a GPU, has no answer."""

    def __init__(self, device: Any, gpus: int, beside: int = 0) -> None:
        self._known = 1 + beside
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            import pynvml
            import torch

            pynvml.nvmlInit()
            first = torch.cuda.current_device() if device.index is None else device.index
            self._nvml = pynvml
            self._handles = [self._handle(torch, index) for index in (first, *range(1, gpus))]
        except Exception:  # whatever is missing or broken there, the figures are None
            return

    def _handle(self, torch: Any, index: int) -> Any:
        # By UUID, because NVML does not know CUDA_VISIBLE_DEVICES.
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        if uuid.startswith("MIG-"):  # a part of a GPU has no clock; the whole one has
            part = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            return self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        return self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")

    def read(self) -> GpuReading | None:
        if not self._handles:
            return None
        each = [self._read(handle) for handle in self._handles]
        slowed = [reading.slowed for reading in each if reading.slowed is not None]
        return GpuReading(
            clock_mhz=min((reading.clock_mhz for reading in each if reading.clock_mhz is not None), default=None),
            slowed=functools.reduce(operator.or_, slowed) if slowed else None,
            hot=_most(reading.hot for reading in each),
            others=_most(reading.others for reading in each),
        )

    def _read(self, handle: Any) -> GpuReading:
        nvml = self._nvml
        reasons = self._ask(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        if reasons is None:  # as NVML called them until CUDA 12
            reasons = self._ask(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        return GpuReading(
            clock_mhz=self._ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            slowed=reasons,
            hot=self._ask(lambda: self._violation(handle, nvml.NVML_PERF_POLICY_THERMAL)),
            others=self._ask(lambda: self._others(handle)),
        )

    def _others(self, handle: Any) -> int:
        """Processes that nobody knows of. In a container NVML may know this one by another number; it is one of them."""
        found = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        return max(0, len(found) - self._known)

    def _violation(self, handle: Any, policy: int) -> float:
        nanoseconds: int = self._nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime
        return nanoseconds / 1e9

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception:  # NVMLError, or AttributeError where pynvml lacks the call
            return None
