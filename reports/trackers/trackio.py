"""Trackio: a run for each cell, in the project of the suite, in local files."""

from __future__ import annotations

import os
from pathlib import Path

from reports.trackers.base import Entry


class Tracker:
    """Writes to the folder that ``TRACKIO_DIR`` names, ``DIR/trackio`` otherwise."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))  # read where trackio is imported

    @property
    def place(self) -> str:
        """The folder."""
        return f"`TRACKIO_DIR={self._folder} trackio show` shows them"

    def send(self, entry: Entry) -> None:
        """Make the cell's run, which is called by its name and the begin of its id: trackio tells runs apart by names."""
        import trackio

        name = f"{entry.name} ({entry.id[:8]})"
        if (Path(self._folder) / f"{entry.project}.db").exists():
            for before in trackio.Api().runs(entry.project):
                if before.name == name:
                    before.delete()
        trackio.init(
            project=entry.project, name=name, group=entry.group, config=dict(entry.config),
            embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        try:
            for step, point in entry.curve.items():
                trackio.log(dict(point), step=step)
            trackio.log(dict(entry.figures), step=entry.steps)
        finally:
            trackio.finish()
