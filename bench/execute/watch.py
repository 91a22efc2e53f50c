"""What a user sees while a plan runs: a live line on a terminal, and a line a stage everywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.machine.output import visible
from bench.metrics.metric import MetricError
from bench.metrics.registry import measured
from bench.metrics.units import counted, show
from bench.plan.plan import Node, Plan
from bench.stage.job import Progress as Tell

Say = Literal["errors", "stages", "figures"]
"""What standard error says of a run: stages that did not end ok, every stage, or the figures of each too."""


@contextlib.contextmanager
def watcher(plan: Plan, say: Say = "stages") -> Iterator[Watch]:
    """Watch a run of `plan`; the live display is taken down at the end, however that comes."""
    console = Console(stderr=True)
    live = Progress(
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=say == "errors" or not console.is_terminal,
    )  # fmt: skip
    with live:
        yield Watch(console, live, say, several=len(plan.suite.models) * len(plan.suite.tasks) > 1)


class Watch:
    """Prints each stage as it ends, and meanwhile how far it is."""

    def __init__(self, console: Console, live: Progress, say: Say, *, several: bool) -> None:
        self._console = console
        self._live = live
        self._say = say
        self._several = several
        self._done = 0
        self._of = 0

    def begin(self, nodes: list[Node], recorded: int) -> None:
        """These will run; so many others are recorded."""
        self._of = len(nodes)
        if self._say != "errors":
            self._print(f"{counted(len(nodes), 'stage')} to run, {recorded} recorded")
        self._stages = self._live.add_task("stages", total=len(nodes))
        self._now = self._live.add_task("", total=1, visible=False)

    def node(self, node: Node) -> Tell:
        """A node begins."""

        def tell(what: str, done: int, of: int) -> None:
            self._live.update(self._now, description=f"{what}: {node.stage}", completed=done, total=of, visible=True)

        return tell

    def making(self, what: str) -> None:
        """A model is made first."""
        if self._say != "errors":
            self._print(what)

    def ended(self, node: Node, record: Mapping[str, Any]) -> None:
        """A node ended."""
        self._done += 1
        self._live.update(self._stages, completed=self._done)
        self._live.update(self._now, visible=False)
        if self._say == "errors" and record["status"] == "ok":
            return
        where = f" ({visible(node.subject.model.name)} on {visible(node.subject.task.name)})" if self._several else ""
        width = len(str(self._of))
        figures = f": {_figures(record)}" if self._say == "figures" else ""
        self._print(
            f"[{self._done:>{width}}/{self._of}] {record['status']:<8} {record['seconds']['total']:6.1f} s  "
            f"{node.recipe}{where}, seed {node.seed}{figures}"
        )
        if record["reason"]:
            self._print(f"    {visible(record['reason'])}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _figures(record: Mapping[str, Any]) -> str:
    """What was measured of one stage alone, by the metrics that its record has values for."""
    found = []
    for metric in measured([record]):
        # A package's metric that cannot be read is no reason to end a run: the report will say so.
        with contextlib.suppress(MetricError):
            if (value := metric.value([record])) is not None:
                found.append(f"{metric.name} {show(value, metric.unit)}")
    return ", ".join(found)
