from __future__ import annotations

import time
from typing import Any, ClassVar

import pytest
import torch

from bench.measure.clock import Clocks, CudaClock, WallClock, step_clock
from bench.measure.turns import Timing


def test_wall_clock_times_each_step_alone() -> None:
    readings = iter([1.0, 1.5, 10.0, 12.0])  # what passes between steps is in neither
    clock = WallClock(now=lambda: next(readings))
    clock.start()
    clock.stop()
    clock.start()
    clock.stop()
    assert clock.seconds() == [0.5, 2.0]


def test_wall_clock_gives_a_copy() -> None:
    clock = WallClock(now=iter([0.0, 1.0]).__next__)
    clock.start()
    clock.stop()
    clock.seconds().append(99.0)
    assert clock.seconds() == [1.0]


class FakeEvent:
    """A CUDA event of a device whose time is ``now``, in milliseconds; read only after a synchronisation."""

    now: ClassVar[float] = 0.0
    synchronised: ClassVar[bool] = False

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.at = FakeEvent.now
        FakeEvent.synchronised = False

    def elapsed_time(self, end: FakeEvent) -> float:
        assert FakeEvent.synchronised, "read before the device was done"
        assert self.at is not None
        assert end.at is not None
        return end.at - self.at


def test_cuda_clock_reads_events_after_one_synchronisation(monkeypatch: pytest.MonkeyPatch) -> None:
    synchronisations = []

    def synchronize(*_: Any) -> None:
        FakeEvent.synchronised = True
        synchronisations.append(FakeEvent.now)

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    clock = CudaClock()
    for start, stop in [(0.0, 250.0), (1000.0, 3000.0)]:
        FakeEvent.now = start
        clock.start()
        FakeEvent.now = stop
        clock.stop()
    assert synchronisations == [], "a step's clock must not stall the device"
    assert clock.seconds() == [0.25, 2.0]
    assert len(synchronisations) == 1


def test_a_step_on_several_gpus_ends_when_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, int]] = []

    class FakeStream:
        def __init__(self, gpu: int) -> None:
            self.gpu = gpu

        def wait_stream(self, other: FakeStream) -> None:
            said.append(("waits for", other.gpu))

    class Recorded(FakeEvent):
        def record(self) -> None:
            said.append(("records", 0))
            super().record()

    monkeypatch.setattr(torch.cuda, "Event", Recorded)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu=0: FakeStream(gpu))
    clock = step_clock(torch.device("cuda"), 3)
    clock.start()
    clock.stop()
    assert said == [("records", 0), ("waits for", 1), ("waits for", 2), ("records", 0)]


def test_the_clock_fits_the_device() -> None:
    assert isinstance(step_clock(torch.device("cpu")), WallClock)
    assert isinstance(step_clock(torch.device("cuda", 1)), CudaClock)


def test_clocks_add_up_pieces_and_give_the_seconds_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = iter([1.0, 3.0, 10.0, 14.0, 20.0, 21.0]), iter([0.5, 1.5, 2.0, 4.0, 5.0, 5.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    clocks = Clocks(torch.device("cpu"))
    for _ in range(2):
        clocks.start()
        clocks.stop()
    assert clocks.take(4) == Timing(wall=6 / 4, cpu=3 / 4)
    clocks.start()
    clocks.stop()
    assert clocks.take(1) == Timing(wall=1.0, cpu=0.5)


def test_on_a_gpu_events_time_each_piece_and_are_read_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def elapsed_time(self, other: object) -> float:
            assert done[-1] == "wait"
            return 5.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))
    clocks = Clocks(torch.device("cuda"))
    for _ in range(2):
        clocks.start()
        clocks.stop()
    assert clocks.take(4).cuda == pytest.approx(0.010 / 4)
    assert done == ["record"] * 4 + ["wait"]
