"""The clocks of training steps and of torch.compile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import torch

from bench.measure.turns import Timing


class StepClock(Protocol):
    """Times steps. ``start`` and ``stop`` must not wait for the device, ``seconds`` may."""

    def start(self) -> None:
        """A step begins: its batch is on the device."""

    def stop(self) -> None:
        """The step's last work is queued."""

    def seconds(self) -> list[float]:
        """The seconds of each step so far."""


class WallClock:
    """For the CPU, where work is done when a call returns."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._started = 0.0
        self._seconds: list[float] = []

    def start(self) -> None:
        """Begin a step."""
        self._started = self._now()

    def stop(self) -> None:
        """End it."""
        self._seconds.append(self._now() - self._started)

    def seconds(self) -> list[float]:
        """The seconds of each step so far."""
        return list(self._seconds)


class CudaClock:
    """For CUDA: events in the stream, read after one synchronisation: timing does not stall the device.

    Where the process works on several GPUs, a step is over when each has done its work.
    """

    def __init__(self, gpus: int = 1) -> None:
        self._others = range(1, gpus)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a step."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((event, torch.cuda.Event(enable_timing=True)))

    def stop(self) -> None:
        """End it."""
        for gpu in self._others:
            torch.cuda.current_stream().wait_stream(torch.cuda.current_stream(gpu))
        self._events[-1][1].record()

    def seconds(self) -> list[float]:
        """The seconds of each step so far."""
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) / 1000 for start, stop in self._events]


def step_clock(device: torch.device, gpus: int = 1) -> StepClock:
    """The clock for `device`, and for the GPUs behind it where a process works on several."""
    return CudaClock(gpus) if device.type == "cuda" else WallClock()


class Compiling:
    """``with Compiling() as compiling:`` adds up, in ``compiling.seconds``, the wall time that torch.compile takes inside.

    Of nested compilations only the outermost counts. It is told by torch's own callbacks, so nothing is timed twice
    and nothing where nothing is compiled.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> Self:
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        from torch._dynamo.callback import callback_handler

        callback_handler.remove_start_callback(self._start)
        callback_handler.remove_end_callback(self._stop)

    def _start(self, _: object) -> None:
        self._started = time.perf_counter()

    def _stop(self, _: object) -> None:
        self.seconds += time.perf_counter() - self._started


class Clocks:
    """The clock of steps, or of passes, that reads all clocks; :meth:`take` gives what they added up to, for each unit."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._wall = self._cpu = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._started = (0.0, 0.0)

    def start(self) -> None:
        """A piece of work begins."""
        if self._cuda:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """It is queued, or done."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._wall += wall - self._started[0]
        self._cpu += cpu - self._started[1]
        if self._cuda:
            self._events[-1][1].record()

    def seconds(self) -> list[float]:
        """Nothing: who uses these takes what they need."""
        return []

    def take(self, units: float) -> Timing:
        """The seconds of one of `units` since the last call."""
        cuda = None
        if self._cuda:
            torch.cuda.synchronize()
            cuda = sum(start.elapsed_time(stop) for start, stop in self._events) / 1000 / units
        found = Timing(self._wall / units, self._cpu / units, cuda)
        self._wall = self._cpu = 0.0
        self._events.clear()
        return found


_running = 0


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Inside, samples are timed: what must be done before can ask."""
    global _running
    _running += 1
    try:
        yield
    finally:
        _running -= 1


def runs() -> bool:
    """Whether samples are being timed."""
    return _running > 0
