from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.measure import trust
from bench.measure.trust import Contention, GpuReading, Reading, judge

BEFORE = Reading(
    wall=100.0,
    cpu=50.0,
    threads={1: (10.0, 1.0), 2: (5.0, 0.5)},
    wanted=1000.0,
    stolen=20.0,
    throttled=(3, 1.5),
    major_faults=7,
    load=1.0,
)
QUIET = replace(BEFORE, wall=110.0, cpu=68.0, threads={1: (20.0, 1.1), 2: (13.0, 0.6)}, wanted=1020.0, stolen=20.1)
"""Ten seconds later: two threads ran 18 s and waited 0.2 s; the machine wanted 20 s, and lost 0.1 s of them."""


def test_a_quiet_machine_is_trusted_and_its_figures_are_exact() -> None:
    found = judge(BEFORE, QUIET)
    assert (found["contended"], found["reason"]) == (False, "")
    assert found["wall_seconds"] == 10
    assert found["cpu_seconds"] == 18
    assert found["ran_seconds"] == pytest.approx(18)
    assert found["waited_seconds"] == pytest.approx(0.2)
    assert found["stolen_seconds"] == pytest.approx(0.1)
    assert found["others_cpu_seconds"] == pytest.approx(1.9)
    assert (found["throttled"], found["throttled_seconds"]) == (0, 0)
    assert (found["major_faults"], found["threads_gone"]) == (0, 0)
    json.dumps(found)


def reason(**changes: Any) -> str:
    found = judge(BEFORE, replace(QUIET, **changes))
    assert found["contended"] == bool(found["reason"])
    return str(found["reason"])


def test_waiting_for_a_cpu() -> None:
    assert reason(threads={1: (20.0, 1.6), 2: (13.0, 0.7)}) == ""  # 0.8 of 18 s
    assert "waited 1 s for a CPU, 6% of the 18 s" in reason(threads={1: (20.0, 1.7), 2: (13.0, 0.8)})


def test_a_wait_too_short_to_matter() -> None:
    before = replace(BEFORE, threads={1: (0.0, 0.0)})
    assert not judge(before, replace(QUIET, threads={1: (0.02, 0.009)}))["contended"]
    assert judge(before, replace(QUIET, threads={1: (0.02, 0.011)}))["contended"]


def test_threads_that_wait_and_never_run() -> None:
    found = judge(replace(BEFORE, threads={1: (1.0, 0.0)}), replace(QUIET, threads={1: (1.0, 5.0)}))
    assert "did not run" in found["reason"]


def test_threads_come_and_go() -> None:
    found = judge(BEFORE, replace(QUIET, threads={1: (20.0, 1.0), 3: (4.0, 0.3)}))
    assert found["ran_seconds"] == pytest.approx(14)
    assert found["waited_seconds"] == pytest.approx(0.3)
    assert found["threads_gone"] == 1
    # An id that was given again: the new thread has run less than the old one had.
    found = judge(BEFORE, replace(QUIET, threads={1: (2.0, 0.1), 2: (5.0, 0.5)}))
    assert found["ran_seconds"] == pytest.approx(2)
    assert found["waited_seconds"] == pytest.approx(0.1)


def test_stolen_time() -> None:
    assert reason(stolen=20.39) == ""
    assert "hypervisor took 3%" in reason(stolen=20.6)
    assert reason(wanted=1001.0, stolen=20.04) == "", "a few ticks of 10 ms are no measurement"
    assert "hypervisor" in reason(wanted=1001.0, stolen=20.06)


def test_throttling() -> None:
    assert "stopped it 1 times" in reason(throttled=(4, 1.6))


def test_page_faults() -> None:
    assert reason(major_faults=107) == ""
    assert "101 page faults" in reason(major_faults=108)


def test_a_slowed_gpu() -> None:
    fine = GpuReading(clock_mhz=1980, slowed=0x04, hot=5.0)  # the power cap is many GPUs' normal state
    before = replace(BEFORE, gpu=fine)
    assert not judge(before, replace(QUIET, gpu=fine))["contended"]
    slowed = judge(before, replace(QUIET, gpu=replace(fine, slowed=0x44)))
    assert slowed["reason"] == "the GPU's clock was held down (hardware thermal slowdown)"
    assert slowed["gpu_clock_mhz"] == 1980
    assert not judge(before, replace(QUIET, gpu=replace(fine, hot=5.09)))["contended"]
    assert "by heat for 2% of the time" in judge(before, replace(QUIET, gpu=replace(fine, hot=5.2)))["reason"]


def test_other_processes_on_a_gpu() -> None:
    alone = GpuReading(clock_mhz=1980, slowed=0, hot=None, others=0)
    crowded = replace(alone, others=2)
    for before, after in ((alone, crowded), (crowded, alone)):  # it may have ended since
        found = judge(replace(BEFORE, gpu=before), replace(QUIET, gpu=after))
        assert found["reason"] == "other processes are on the GPU (2)"
        assert (found["contended"], found["gpu_other_processes"]) == (True, 2)
    assert not judge(replace(BEFORE, gpu=alone), replace(QUIET, gpu=alone))["contended"]
    unknown = replace(alone, others=None)
    assert judge(replace(BEFORE, gpu=unknown), replace(QUIET, gpu=unknown))["gpu_other_processes"] is None


def test_several_reasons_are_all_said() -> None:
    assert reason(throttled=(4, 1.6), stolen=25.0).count(";") == 1


def test_a_system_without_counters_says_so_and_blames_nobody() -> None:
    found = judge(Reading(wall=0.0, cpu=0.0), Reading(wall=1.0, cpu=0.5))
    assert not found["contended"]
    assert found["cpu_seconds"] == 0.5
    unknown = ("waited_seconds", "stolen_seconds", "throttled", "major_faults", "load_average")
    assert [found[name] for name in unknown] == [None] * len(unknown)


def test_off_linux_nothing_is_thrown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(trust, "_text", lambda path: "")
    monkeypatch.setattr(os, "listdir", missing)
    monkeypatch.setattr(os, "getloadavg", missing)
    monkeypatch.setitem(sys.modules, "resource", None)
    trust._cpu_stats.cache_clear()
    try:
        with Contention(torch.device("cuda")) as contention:  # no such device here either, on most machines
            pass
        assert contention.result()["waited_seconds"] is None
    finally:
        trust._cpu_stats.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_readings_are_the_kernels() -> None:
    with Contention() as contention:
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        ended = time.process_time() + 0.2
        while time.process_time() < ended:
            pass
        early = contention.result()
    done.set()
    thread.join()
    found = contention.result()
    assert found == contention.result(), "after the block its figures stand"
    assert 0.2 <= early["cpu_seconds"] <= found["cpu_seconds"] < 0.4
    assert found["ran_seconds"] == pytest.approx(found["cpu_seconds"], abs=0.05)
    assert found["wall_seconds"] >= 0.19
    assert found["threads_gone"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_reading_is_cheap() -> None:
    trust.read()

    def cost() -> float:
        started = time.perf_counter()
        trust.read()
        return time.perf_counter() - started

    assert min(cost() for _ in range(20)) < 0.001


def test_control_groups_of_both_versions_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "two": "nr_periods 5\nnr_throttled 2\nthrottled_usec 1500000\n",
        "one": "nr_throttled 1\nthrottled_time 250000000\n",
        "none": "usage_usec 5\n",
    }
    monkeypatch.setattr(trust, "_text", lambda path: texts[path])
    monkeypatch.setattr(trust, "_cpu_stats", lambda: ("two", "one", "none"))
    assert trust._throttled() == (3, 1.75)
    monkeypatch.setattr(trust, "_cpu_stats", lambda: ("none",))
    assert trust._throttled() is None


class FakeNvml:
    NVML_CLOCK_SM = 1
    NVML_PERF_POLICY_THERMAL = 1

    def __init__(self) -> None:
        self.asked = ""

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked = uuid
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:  # noqa: N802
        return 1500

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return 0x40

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> Any:  # noqa: N802
        raise OSError("Not Supported")


def test_nvml_is_asked_for_torchs_gpu_and_may_have_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"abc-{index}"))
    with Contention(torch.device("cuda", 3)) as contention:
        pass
    found = contention.result()
    assert nvml.asked == "GPU-abc-3"
    assert (found["gpu_clock_mhz"], found["gpu_slowed"], found["gpu_hot_seconds"]) == (1500, 0x40, None)
    assert "hardware thermal slowdown" in found["reason"]


class NewNvml(FakeNvml):
    """A driver of today, with two GPUs and a part of one; it knows processes by the host's numbers."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:  # noqa: N802
        return f"whole of {handle}"

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:  # noqa: N802
        return {"GPU-0": 1900, "GPU-1": 1200, "whole of MIG-7": 1000}[handle]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return {"GPU-0": 0x01, "GPU-1": 0x20}.get(handle, 0)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        raise AssertionError("its old name")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in {"GPU-0": [77], "GPU-1": [77, 78]}.get(handle, [])]


def test_of_several_gpus_the_worst_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NewNvml())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=str(index)))
    both, one = Contention(torch.device("cuda"), 2), Contention(torch.device("cuda"))
    with both, one:
        pass
    found, alone = both.result(), one.result()
    assert (found["gpu_clock_mhz"], found["gpu_slowed"], found["gpu_other_processes"]) == (1200, 0x21, 1)
    assert "software thermal slowdown" in found["reason"]
    assert "other processes are on the GPU (1)" in found["reason"]
    assert (alone["gpu_clock_mhz"], alone["gpu_slowed"], alone["gpu_other_processes"]) == (1900, 1, 0)


def test_who_takes_turns_with_this_process_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NewNvml())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=str(index)))
    with Contention(torch.device("cuda", 1), beside=1) as contention:
        pass
    assert contention.result()["gpu_other_processes"] == 0
    assert "other processes" not in contention.result()["reason"]


def test_a_part_of_a_gpu_has_the_clock_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NewNvml())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="MIG-7"))
    with Contention(torch.device("cuda", 0)) as contention:
        pass
    assert contention.result()["gpu_clock_mhz"] == 1000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_crowded_machine_is_noticed() -> None:
    hogs = [
        subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        time.sleep(0.3)
        with Contention() as contention:
            ended = time.perf_counter() + 1.0
            while time.perf_counter() < ended:
                sum(range(10_000))
    finally:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()
    found = contention.result()
    assert found["contended"]
    assert "for a CPU" in found["reason"]
