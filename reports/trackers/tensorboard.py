"""TensorBoard: a folder of event files for each cell, with its settings as hyperparameters.

The event files are written by the package ``tensorboard`` alone, for no report imports torch.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from reports.trackers.base import Entry


class Tracker:
    """Writes ``DIR/tensorboard``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"

    @property
    def place(self) -> str:
        """The folder."""
        return f"`tensorboard --logdir {self._folder}` shows them"

    def send(self, entry: Entry) -> None:
        """Write the cell's folder, which is called by its id: names may hold what a path cannot.

        Raises:
            OSError: it cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self._folder / entry.project / entry.id
        shutil.rmtree(folder, ignore_errors=True)
        now = time.time()
        writer = EventFileWriter(str(folder))

        def put(step: int, *values: Summary.Value) -> None:
            writer.add_event(Event(summary=Summary(value=values), step=step, wall_time=now))

        def session(tag: str, data: HParamsPluginData) -> None:
            about = metadata.create_summary_metadata(data)
            put(0, Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR))

        start = SessionStartInfo(group_name=entry.name, start_time_secs=now)
        for name, value in entry.config.items():
            kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
            setattr(start.hparams[name], f"{kind}_value", value)
        session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
        for step, point in entry.curve.items():
            put(step, *(Summary.Value(tag=f"training/{name}", simple_value=value) for name, value in point.items()))
        put(entry.steps, *(Summary.Value(tag=name, simple_value=value) for name, value in entry.figures.items()))
        status = api_pb2.STATUS_SUCCESS if entry.ok else api_pb2.STATUS_FAILURE
        end = SessionEndInfo(status=status, end_time_secs=now)
        session(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
        writer.close()
