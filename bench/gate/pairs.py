"""Pairs of measurements: a fresh worker of each side, both alive at once, that take turns.

The order is A B B A, between the repeats of a pair and between pairs, so that whatever slows the machine down meanwhile slows
both sides. Where memory does not hold both at once, one works after the other.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.gate.case import Case
from bench.measure import turns
from bench.measure.trust import against
from bench.measure.turns import Timing

PIECE_SECONDS = 0.05
"""Pieces of work are put together to repeats of at least this length."""

Which = Literal["base", "head"]
Clock = Literal["cpu", "cuda"]
SIDES: tuple[Which, Which] = ("base", "head")


class WorkerError(ValueError):
    """A side's process cannot do what it is asked for. The message names the side and what it said."""


@dataclass(frozen=True)
class Target:
    """A side, as it is to be run: the interpreter, the folder of the revision's files, and the folder of its results.

    ``suite`` is the suite's table, in which paths are from ``suite_folder``; ``packages`` are the modules under test, with the
    folder or file that each must come from.
    """

    which: Which
    label: str
    python: Path
    checkout: Path
    folder: Path
    environment: Mapping[str, str]
    suite: Mapping[str, Any]
    suite_folder: Path
    commit: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder / "gate.log"

    def check(self, module: str, file: str) -> None:
        """See to it that `module` is that of the revision, as it came from `file`.

        Raises:
            WorkerError: it is not.
        """
        if not Path(file).resolve().is_relative_to(Path(self.packages[module]).resolve()):
            raise WorkerError(
                f"{self.which} ({self.label}): its module {module} came from {file}, not from {self.packages[module]}"
            )


class Worker:
    """A side's process, see :mod:`bench.gate.worker`. Use as a context manager: it ends with the block."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._log = target.log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(target.python), "-P", "-m", "bench.gate.worker", "time", str(target.folder), *target.packages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            cwd=target.checkout,
            env=dict(target.environment),
            process_group=0,  # Ctrl-C is for the command, which ends it
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def hello(self) -> None:
        """Wait until it has imported all, and see to it that this is what was asked for.

        Raises:
            WorkerError: it is not, or the worker failed.
        """
        for module, file in self.answer("hello").items():
            self.target.check(module, file)

    def send(self, message: Mapping[str, Any]) -> None:
        """Ask for something."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its answer says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self, key: str) -> Any:
        """What it says under `key`.

        Raises:
            WorkerError: it says that it failed, or ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line else {"error": "its process ended; see its log"}
        if key not in said:
            raise WorkerError(
                f"{self.target.which} ({self.target.label}): {said.get('error', said)} [{self.target.log}]"
            )
        return said[key]


@dataclass(frozen=True)
class Sample:
    """One side of a pair for one metric: the median over its repeats by the clock that decides and by wall time, or bytes."""

    value: float
    wall: float = math.nan


@dataclass(frozen=True)
class Pair:
    """Both sides of one metric. ``spoiled`` says why it must not count; empty where it may.

    ``log_ratio`` is of a timing: the logarithm of the head's time over the base's, of :func:`bench.measure.turns.log_ratio`
    where the two took turns, and of their medians where they did not.
    """

    base: Sample
    head: Sample
    spoiled: str = ""
    log_ratio: float = math.nan


@dataclass
class Pairs:
    """Measures pairs of cases, and keeps all that it measures in ``file``, a JSON line for each case of a pair.

    ``clock`` decides: "cpu" or "cuda". ``fits`` is whether memory holds both sides at once. ``identity`` is all that the
    measurements depend on: what the file has of the same one is taken before anything is measured.
    """

    base: Target
    head: Target
    cases: Sequence[Case]
    repeats: int
    clock: Clock
    file: Path
    fits: bool = True
    identity: str = ""
    kept: dict[str, deque[dict[str, Any]]] = field(default_factory=dict)
    number: int = 0
    _pieces: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            first, *lines = self.file.read_text(encoding="utf-8").splitlines() or [""]
            if first == json.dumps({"identity": self.identity}):
                for text in lines:
                    with contextlib.suppress(ValueError):  # one may have been cut off
                        line = json.loads(text)
                        self.kept.setdefault(line["case"], deque()).append(line)
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write("\n")  # after one that was cut off
                return
        self.file.write_text(json.dumps({"identity": self.identity}) + "\n", encoding="utf-8")

    def measure(self, wanted: Mapping[str, set[str]]) -> Iterator[tuple[Case, Mapping[str, Pair]]]:
        """One pair of fresh workers for the metrics that are `wanted` of each case, by the case's name; a case after another.

        Raises:
            WorkerError: a side failed.
        """
        order: tuple[Target, Target] = (self.base, self.head) if self.number % 2 == 0 else (self.head, self.base)
        self.number += 1
        todo = []
        for case in (case for case in self.cases if wanted.get(case.name)):
            kept = self.kept.get(case.name)
            if kept and wanted[case.name] <= set(kept[0]["metrics"]):
                line = kept.popleft()
                yield case, paired(case, wanted[case.name], line, self.clock)
            else:
                todo.append(case)
        if not todo:
            return
        if self.fits:
            with Worker(order[0]) as first, Worker(order[1]) as second:
                for worker in (first, second):
                    worker.hello()
                for case in todo:
                    yield case, self._paired(case, wanted[case.name], self._in_turns((first, second), case, wanted))
            return
        found: dict[str, dict[str, Any]] = {}
        for target in order:
            with Worker(target) as worker:
                worker.hello()
                found[target.which] = {
                    case.name: self._in_turns((worker,), case, wanted)[target.which] for case in todo
                }
        for case in todo:
            yield case, self._paired(case, wanted[case.name], {side: of[case.name] for side, of in found.items()})

    def profile(self, case: Case) -> dict[str, dict[str, float]]:
        """Seconds of each operator and phase in one piece of work of `case`, by side.

        Raises:
            WorkerError: a side failed.
        """
        found: dict[str, dict[str, float]] = {}
        for target in (self.base, self.head):
            with Worker(target) as worker:
                worker.hello()
                ready = self._begin(worker, case)
                worker.send({"do": "profile", "pieces": dict.fromkeys(ready, 5)})
                found[target.which] = worker.answer("profile")
                worker.send({"do": "end"})
                worker.answer("end")
        return found

    def _begin(self, worker: Worker, case: Case) -> Mapping[str, float]:
        worker.send({"do": "case", "name": case.name})
        ready: Mapping[str, float] = worker.answer("ready")
        return ready

    def _in_turns(self, workers: Sequence[Worker], case: Case, wanted: Mapping[str, set[str]]) -> dict[str, Any]:
        for worker in workers:
            worker.send({"do": "case", "name": case.name, "beside": len(workers) - 1})
        ready, *_ = [worker.answer("ready") for worker in workers]
        timed = [metric for metric in case.timed if metric in wanted[case.name]]
        for metric in timed:
            # The same on both sides and in all pairs, so that both do the same work.
            enough = 1 if case.kind == "script" else math.ceil(PIECE_SECONDS / max(ready[metric], 1e-6))
            self._pieces.setdefault((case.name, metric), enough)
        pieces = {metric: self._pieces[case.name, metric] for metric in timed}
        raw: list[list[dict[str, Any]]] = [[] for _ in workers]
        for which in turns.order(self.repeats if pieces and case.kind != "script" else 1, len(workers)):
            workers[which].send({"do": "repeat", "pieces": pieces})
            raw[which].append(workers[which].answer("repeat"))
        found: dict[str, Any] = {}
        for worker, repeats in zip(workers, raw, strict=True):
            worker.send({"do": "end"})
            found[worker.target.which] = {"repeats": repeats, **worker.answer("end")}
        return found

    def _paired(self, case: Case, wanted: set[str], sides: Mapping[str, Mapping[str, Any]]) -> dict[str, Pair]:
        line = {"pair": self.number, "case": case.name, "metrics": sorted(wanted), "turns": self.fits, **sides}
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        return paired(case, wanted, line, self.clock)


def paired(case: Case, wanted: set[str], line: Mapping[str, Any], clock: Clock) -> dict[str, Pair]:
    """The pair of each of the `wanted` metrics, from a line of the file."""
    sides, spoiled = {which: line[which] for which in SIDES}, ""
    for which, side in sides.items():
        why = against(side["trust"], clock)
        spoiled = spoiled or (why and f"{which}: {why}")
    found = {}
    for metric in wanted:
        if metric in case.timed:
            base, head = ([Timing(**each[metric]) for each in sides[which]["repeats"]] for which in SIDES)
            log_ratio = _log_ratio(base, head, clock, line["turns"])
            found[metric] = Pair(_sample(base, clock), _sample(head, clock), spoiled, log_ratio)
        elif None not in (held := [sides[which]["held"].get(metric) for which in SIDES]):
            found[metric] = Pair(Sample(float(held[0])), Sample(float(held[1])))
    return found


def _sample(repeats: Sequence[Timing], clock: Clock) -> Sample:
    return Sample(
        statistics.median(timing.by(clock) for timing in repeats), statistics.median(timing.wall for timing in repeats)
    )


def _log_ratio(base: Sequence[Timing], head: Sequence[Timing], clock: Clock, in_turns: bool) -> float:
    ours, theirs = ([timing.by(clock) for timing in side] for side in (head, base))
    if not in_turns:
        ours, theirs = [statistics.median(ours)], [statistics.median(theirs)]
    return turns.log_ratio(ours, theirs)
