"""``methodbench run``."""

from __future__ import annotations

import functools
import signal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.say import fail, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.execute.run import Result


class Through(StrEnum):
    """How checkpoints reach the machines of a cluster."""

    store = "object-store"
    folder = "shared-folder"


def run_(
    suite: options.SuiteArgument = None,
    model: options.Models = None,
    task: options.Tasks = None,
    recipe: options.Recipes = None,
    out: options.Out = None,
    only: options.Only = None,
    seeds: options.Seeds = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    device: options.Device = None,
    threads: options.Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run what is recorded already, too.")] = False,
    jobs: Annotated[
        str, typer.Option("--jobs", metavar="N|auto", help="Stages that may run side by side; auto: one a GPU.")
    ] = "1",
    where: options.Executes = options.Where.local,
    through: Annotated[
        Through, typer.Option("--checkpoints", help="With --executor ray: how they reach other machines.")
    ] = Through.store,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds that a stage's process may take."),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(
            "--checkpoint-minutes",
            metavar="N",
            min=0,
            help="Save a training every N minutes, so that the same command goes on in the middle of it; 0: never.",
        ),
    ] = 10,
    settle: Annotated[
        bool, typer.Option("--settle", help="Add seeds to the recipes that are not settled, until they are.")
    ] = False,
    max_seeds: Annotated[
        int | None,
        typer.Option(
            "--max-seeds", metavar="N", min=1, help="With --settle: a recipe's seeds at most.", show_default="12"
        ),
    ] = None,
    track: Annotated[
        list[options.Tracker] | None, typer.Option("--track", help="Send each cell to this tracker when it has ended.")
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run a suite, or recipes given here, and write the report. What is recorded already is not run again."""
    if jobs != "auto" and not (jobs.isdecimal() and len(jobs) < 10 and int(jobs)):
        fail(f"error: --jobs {jobs}: it is a whole number of at least 1, or auto")
    said = options.verbosity(quiet, verbose)
    from bench.execute.suites import run

    trackers = [each.value for each in track or ()]
    follow = None
    if trackers:
        from reports.trackers import check
        from reports.trackers.following import following

        check(trackers)
        follow = functools.partial(following, names=trackers)

    def start() -> Result:
        return run(
            options.given(suite, model, task, recipe),
            out=options.folder(suite, out), only=only or [], seeds=seeds, steps=steps, epochs=epochs, device=device, threads=threads,
            fresh=fresh, jobs="auto" if jobs == "auto" else int(jobs), executor=where.value, checkpoints=through.value,
            timeout=timeout, checkpoint_minutes=checkpoint_minutes, settle=settle, max_seeds=max_seeds, say=said, follow=follow,
        )  # fmt: skip

    carry_out(start, quiet=quiet)


def carry_out(start: Callable[[], Result], *, quiet: bool) -> None:
    """`start` a run, write and print its report, and end with its exit status."""
    try:
        result = start()
    except KeyboardInterrupt as end:
        if not end.args:  # nothing had begun
            raise
        # While Python ends it gives up handlers of its own, and a second Ctrl-C would kill it with another status.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say(f"\nInterrupted. {end}", error=True)
        raise typer.Exit(130) from None
    from reports import write
    from reports.table import Terminal

    shown = Terminal()
    # First: what is printed may have no reader any more.
    written = write(result.records.read_on(), ["html", "md"], result.folder, shown)
    shown.print()
    if not quiet:
        for path in written:
            say(f"wrote {path}")
    for text in result.beside:
        say(f"note  {text}; all is in the records", error=True)
    if not result.ok:
        raise typer.Exit(1)
    if len(result.refused) == result.asked:
        raise typer.Exit(2)
