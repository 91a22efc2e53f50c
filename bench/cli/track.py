"""``methodbench track``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.say import fail, say


def track_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    to: Annotated[
        list[options.Tracker] | None,
        typer.Option("--to", help="Where to; without it, to those that the folder's runs were sent to."),
    ] = None,
) -> None:
    """Send the cells of a results folder to trackers, as far as they were not sent: a run there for each."""
    from bench.record.reading import read
    from reports.trackers.following import following, problems
    from reports.trackers.sent import Sent

    read(folder)
    names = [each.value for each in to or ()] or Sent(folder).trackers
    if not names:
        fail(f"error: {folder}: nothing was sent from it yet; say where to, as in --to {options.Tracker.tensorboard}")
    with following(folder, names) as follower:
        told = follower.send()
    for each in told:
        if not each.lacks:
            say(f"{each.tracker}: {each.sent} sent, {each.had} there before; {each.place}")
    if found := problems(folder, told):
        fail("\n".join(found), 1)
