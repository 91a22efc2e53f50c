"""MLflow: a run for each cell, in the experiment of the suite."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from reports.trackers.base import Entry

_TAG = "methodbench.cell"
T = TypeVar("T")
_MOST = 1000, 100, 500
"""Metrics and parameters that one call may log, and letters that a parameter may have (mlflow.utils.validation)."""


class Tracker:
    """Writes to the server or store that ``MLFLOW_TRACKING_URI`` names, ``DIR/mlflow.db`` otherwise."""

    def __init__(self, folder: Path) -> None:
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        # As it is usual, a server that does not answer would be asked for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

    @property
    def place(self) -> str:
        """The store."""
        return f"`mlflow ui --backend-store-uri {self._uri}` shows them" if ":///" in self._uri else f"in {self._uri}"

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._uri)

    def send(self, entry: Entry) -> None:
        """Make the cell's run; one that was made of it before is deleted, as MLflow deletes: it can be restored.

        Raises:
            MlflowException: the store does not take it.
        """
        from mlflow.entities import Metric, Param, RunTag

        client, now = self._client, int(time.time() * 1000)
        found = client.get_experiment_by_name(entry.project)
        experiment = found.experiment_id if found else client.create_experiment(entry.project)
        for before in client.search_runs([experiment], f"tags.`{_TAG}` = '{entry.id}'"):
            client.delete_run(before.info.run_id)
        run = client.create_run(
            experiment, run_name=entry.name, tags={_TAG: entry.id, "group": entry.group}
        ).info.run_id
        values = [
            *((name, value, step) for step, point in entry.curve.items() for name, value in point.items()),
            *((name, value, entry.steps) for name, value in entry.figures.items()),
        ]
        metrics, params, letters = _MOST
        for some in _parts([Metric(name, value, now, step) for name, value, step in values], metrics):
            client.log_batch(run, metrics=some)
        for some in _parts([Param(name, str(value)[:letters]) for name, value in entry.config.items()], params):
            client.log_batch(run, params=some)
        if reason := entry.config.get("reason"):
            client.log_batch(run, tags=[RunTag("reason", str(reason)[:5000])])
        client.set_terminated(run, "FINISHED" if entry.ok else "FAILED")


def _parts(values: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """`values`, so many at once."""
    return (values[start : start + most] for start in range(0, len(values), most))
