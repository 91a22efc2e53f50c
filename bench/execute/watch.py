"""What a user sees while a plan runs: live lines on a terminal, and a line a stage everywhere."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from bench.machine.output import visible
from bench.metrics.metric import MetricError, at
from bench.metrics.registry import measured
from bench.metrics.units import counted, show
from bench.plan.plan import Node, Plan
from bench.record.reading import Records
from bench.record.schema import Turns
from bench.stage.job import UNSEEN
from bench.stage.job import Progress as Tell

Say = Literal["errors", "stages", "figures"]
"""What standard error says of a run: stages that did not end ok, every stage, or the figures of each too."""


class Follower(Protocol):
    """What follows a run from outside, such as what sends its results elsewhere. It neither fails nor takes long."""

    def ended(self, node: str) -> None:
        """The stage with this id has its record."""

    def done(self, tell: Callable[[str], None]) -> Sequence[str]:
        """The run is over: `tell` what was done, and return what could not be, a sentence each."""


Follow = Callable[[Path], contextlib.AbstractContextManager[Follower]]
"""What follows a run with this results folder."""


@contextlib.contextmanager
def watcher(plan: Plan, say: Say = "stages", follower: Follower | None = None) -> Iterator[Watch]:
    """Watch a run of `plan`; the live display is taken down at the end, however that comes."""
    console = Console(stderr=True)
    watch = Watch(plan, console, say, live=say != "errors" and console.is_terminal, follower=follower)
    with watch.display:
        yield watch


class Watch:
    """Prints each stage as it ends, and meanwhile how far those are that run."""

    def __init__(self, plan: Plan, console: Console, say: Say, *, live: bool, follower: Follower | None = None) -> None:
        self._plan = plan
        self._follower = follower
        self._console = console
        self._say = say
        self._live = live
        self._several = len(plan.suite.models) * len(plan.suite.tasks) > 1
        self._past = Past()
        self._waiting: dict[str, Node] = {}
        self._running: dict[str, Running] = {}
        self._done = 0
        self._of = 0
        # The machine is the stages': twice a second is often enough to look.
        self.display = Progress(
            _Name(), BarColumn(20), _State(table_column=Column(no_wrap=True)),
            console=console, transient=True, refresh_per_second=2, disable=not live,
        )  # fmt: skip

    def begin(self, nodes: list[Node], recorded: int, records: Records) -> None:
        """These will run; so many others are recorded."""
        self._of = len(nodes)
        self._waiting = {node.id: node for node in nodes}
        if self._say != "errors":
            self._print(f"{counted(len(nodes), 'stage')} to run, {recorded} recorded")
        if self._live:
            ok = records.ok
            for id_, node in self._plan.nodes.items():
                if id_ in ok and isinstance(seconds := at(records.nodes[id_], "seconds", "total"), float):
                    self._past.add(node, seconds)
        self._all = self.display.add_task("all stages", total=len(nodes), state=self._suite)

    def node(self, node: Node) -> Tell:
        """A node begins."""
        running = Running(self._past.expected(node))
        self._waiting.pop(node.id, None)
        self._running[node.id] = running
        name = f"{node.recipe}, seed {node.seed}"
        line = running.line = self.display.add_task(visible(name), total=None, state=running.state)

        def tell(what: str, done: int, of: int, seen: Mapping[str, float] = UNSEEN) -> None:
            if not of:
                if self._say != "errors":
                    self._print(f"{visible(name)}: {visible(what)}")
                return
            running.tell(what, done, of, seen)
            self.display.update(line, completed=done, total=of)

        return tell

    def making(self, what: str) -> None:
        """A model is made first."""
        if self._say != "errors":
            self._print(what)

    def ended(self, node: Node, record: Mapping[str, Any]) -> None:
        """A node ended."""
        seconds = record["seconds"]["total"]
        if record["status"] == "ok":
            self._past.add(node, seconds)
        figures = _all_figures(record) if self._say == "figures" else _few_figures(record, node.subject.task.primary)
        self._line(node, record["status"], seconds, figures)
        if record["reason"]:
            self._print(f"    {visible(record['reason'])}")
        if self._follower:
            self._follower.ended(node.id)

    def timings(self, nodes: list[Node], *, again: bool) -> None:
        """Timings of these follow the stages, or the timings before, `again`. Each begins with :meth:`node`."""
        self._done, self._of, self._past = 0, len(nodes), Past()
        self._waiting = {node.id: node for node in nodes}
        self.display.update(self._all, description="all timings", completed=0, total=len(nodes))
        if self._say != "errors":
            why = "again, since the machine was busy" if again else "now that the stages have ended"
            self._print(f"{counted(len(nodes), 'timing')} to take {why}")

    def timed(self, node: Node, record: Mapping[str, Any]) -> None:
        """A timing of `node` ended: the record of its turns, or the node's own with the new latency in it."""
        if record["kind"] == "node":
            seconds, said, problem = record["seconds"]["retimed"], "latency", at(record, "trust", "latency", "reason")
        else:
            turns = Turns.of(record)
            seconds, problem = record["seconds"]["total"], turns.reason or turns.against
            said = f"{1 / turns.ratio:.2f}× the baseline's training throughput" if turns.ratio else turns.status
        self._past.add(node, seconds)
        self._line(node, "timing", seconds, [said])
        if problem:
            self._print(f"    {visible(problem)}")

    def _line(self, node: Node, status: str, seconds: float, figures: Sequence[str]) -> None:
        """The line of what ended, which is not at work any more."""
        self._done += 1
        self.display.remove_task(self._running.pop(node.id).line)
        self.display.update(self._all, completed=self._done)
        if self._say == "errors" and status in ("ok", "timing"):
            return
        where = f" ({visible(node.subject.model.name)} on {visible(node.subject.task.name)})" if self._several else ""
        width = len(str(self._of))
        self._print(
            f"[{self._done:>{width}}/{self._of}] {status:<8} {seconds:6.1f} s  "
            f"{node.recipe}{where}, seed {node.seed}{': ' if figures else ''}{', '.join(figures)}"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _suite(self) -> str:
        """How far all stages are, and about how long they will take yet."""
        waiting = [self._past.expected(node) for node in list(self._waiting.values())]
        running = [each.left() for each in list(self._running.values())]
        left = [seconds for seconds in (*waiting, *running) if seconds is not None]
        said = f"{self._done} of {self._of}"
        return (
            said
            if len(left) < len(waiting) + len(running)
            else f"{said}, {_about(sum(left) / max(1, len(running)))} left"
        )


class Past:
    """How long stages took, to tell how long others will take: median seconds of those that are most like them."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}

    def add(self, node: Node, seconds: float) -> None:
        """`node` took so long."""
        for key in self._keys(node):
            self._seconds.setdefault(key, []).append(seconds)

    def expected(self, node: Node) -> float | None:
        """How long `node` may take; None where nothing has run yet."""
        known = next((self._seconds[key] for key in self._keys(node) if key in self._seconds), None)
        return statistics.median(known) if known else None

    @staticmethod
    def _keys(node: Node) -> list[tuple[str, ...]]:
        """The same recipe with another seed; the same stage after others; a stage of the same kind; any."""
        subject = (node.subject.model.name, node.subject.task.name)
        return [
            (*subject, "recipe", str(node.recipe)),
            (*subject, "stage", str(node.stage)),
            (node.stage.main.kind,),
            (),
        ]


class Running:
    """A stage at work: what it told last, and about how long it will take yet. That is what is left of the `expected`
    seconds, or of its training's steps where nothing is expected.

    ``line`` is its line of the display.
    """

    line: TaskID

    def __init__(self, expected: float | None) -> None:
        self._expected = expected
        self._end = None if expected is None else time.monotonic() + expected
        self._told = ("", 0, 1)
        self._since = 0.0, 0, 0.0
        self._rate: float | None = None
        self._seen = UNSEEN

    def tell(self, what: str, done: int, of: int, seen: Mapping[str, float]) -> None:
        """What :class:`bench.stage.job.Progress` is told."""
        now = time.monotonic()
        if what != self._told[0]:
            self._since = now, done, seen.get("tokens", 0.0)
        since, first, tokens = self._since
        self._told, self._seen, self._rate = (what, done, of), seen, None
        if seen and now > since:
            self._rate = (seen["tokens"] - tokens) / (now - since)
        if self._expected is None:
            self._end = now + (now - since) / (done - first) * (of - done) if seen and done > first else None

    def left(self) -> float | None:
        """Seconds, about; None where nothing says so."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def state(self) -> str:
        """What it does, loss, tokens a second and the time left, as far as they are known."""
        what, done, of = self._told
        loss = self._seen.get("loss")
        parts = [
            f"{what} {done}/{of}" if of > 1 else what,
            "" if loss is None else f"loss {loss:.3f}",
            "" if self._rate is None else show(self._rate, "tokens/s"),
            "" if (left := self.left()) is None else f"{_about(left)} left",
        ]
        return ", ".join(part for part in parts if part)


class _Name(ProgressColumn):
    """The description, cut where there is no room."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _State(ProgressColumn):
    """What each task's ``state`` says when the display is drawn."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"]())


def _about(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _few_figures(record: Mapping[str, Any], primary: str) -> list[str]:
    """The metric that ranks recipes, and how fast training went."""
    found = _figures(record)
    return [
        *([f"{primary} {found[primary]}"] if primary in found else []),
        *([found["train_tokens_per_second"]] if "train_tokens_per_second" in found else []),
    ]


def _all_figures(record: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value}" for name, value in _figures(record).items()]


def _figures(record: Mapping[str, Any]) -> dict[str, str]:
    """What was measured of one stage alone, by the metrics that its record has values for."""
    found = {}
    for metric in measured([record]):
        # A package's metric that cannot be read is no reason to end a run: the report will say so.
        with contextlib.suppress(MetricError):
            if (value := metric.value([record])) is not None:
                found[metric.name] = show(value, metric.unit)
    return found
