"""What a user sees while a plan runs: a live line on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.machine.output import visible
from bench.metrics.units import counted
from bench.plan.plan import Node, Plan
from bench.stage.job import Progress as Tell


@contextlib.contextmanager
def watcher(plan: Plan) -> Iterator[Watch]:
    """Watch a run of `plan`; the live display is taken down at the end, however that comes."""
    console = Console(stderr=True)
    live = Progress(
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with live:
        yield Watch(console, live, several=len(plan.suite.models) * len(plan.suite.tasks) > 1)


class Watch:
    """Prints each stage as it ends, and meanwhile how far it is."""

    def __init__(self, console: Console, live: Progress, *, several: bool) -> None:
        self._console = console
        self._live = live
        self._several = several
        self._done = 0
        self._of = 0

    def begin(self, nodes: list[Node], recorded: int) -> None:
        """These will run; so many others are recorded."""
        self._of = len(nodes)
        self._console.print(f"{counted(len(nodes), 'stage')} to run, {recorded} recorded", highlight=False)
        self._stages = self._live.add_task("stages", total=len(nodes))
        self._now = self._live.add_task("", total=1, visible=False)

    def node(self, node: Node) -> Tell:
        """A node begins."""

        def tell(what: str, done: int, of: int) -> None:
            self._live.update(self._now, description=f"{what}: {node.stage}", completed=done, total=of, visible=True)

        return tell

    def making(self, what: str) -> None:
        """A model is made first."""
        self._console.print(what, markup=False, highlight=False, soft_wrap=True)

    def ended(self, node: Node, record: Mapping[str, Any]) -> None:
        """A node ended."""
        self._done += 1
        self._live.update(self._stages, completed=self._done)
        self._live.update(self._now, visible=False)
        where = f" ({visible(node.subject.model.name)} on {visible(node.subject.task.name)})" if self._several else ""
        width = len(str(self._of))
        self._console.print(
            f"[{self._done:>{width}}/{self._of}] {record['status']:<8} {record['seconds']['total']:6.1f} s  "
            f"{node.recipe}{where}, seed {node.seed}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        if record["reason"]:
            self._console.print(f"    {visible(record['reason'])}", markup=False, highlight=False, soft_wrap=True)
