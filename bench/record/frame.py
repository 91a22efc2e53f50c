"""The records of a results folder as a table."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from bench.metrics import registry
from bench.metrics.metric import paired
from bench.record.reading import read, sketches

if TYPE_CHECKING:
    import pandas


def frame(folder: str | os.PathLike[str]) -> pandas.DataFrame:
    """The records of `folder` as a table: one row a node, by its latest record, in the order first recorded.

    Columns are what identifies the node, its ``status`` and ``reason``, and every metric by name, in the unit
    that ``frame.attrs["units"]`` gives. A figure is of the node's whole recipe, and is NaN where it was not
    measured or where a stage on the way did not end ``ok``. Lines that are left out, and recorded figures that no metric
    is registered for, are warned of.

    Raises:
        RecordError: there are no records, or one is of a newer schema.
    """
    import pandas

    records = read(folder)
    for text in records.warnings:
        warnings.warn(text, stacklevel=2)
    columns = registry.measured(map(sketches(records.nodes), records.nodes))
    rows = []
    unknown: set[str] = set()
    for id_, record in records.nodes.items():
        path = records.path(id_)
        steps = [paired(step, records.nodes) for step in path]
        unknown |= registry.unknown(record)
        ok = all(step.status == "ok" for step in path)
        machine = record.environment and record.environment.machine
        rows.append(
            [record.get(name) for name in _IDENTITY]
            + [getattr(machine, name, None) for name in _MACHINE]
            + [metric.value(steps) if ok else None for metric in columns]
        )
    for name in sorted(unknown):
        text = (
            f"`{name}` is recorded and no metric of that name is registered here; install the package that registers it"
        )
        warnings.warn(text, stacklevel=2)
    names = [metric.name for metric in columns]
    table = pandas.DataFrame(rows, columns=[*_IDENTITY, *_MACHINE, *names])
    table = table.astype(dict.fromkeys(names, "float64"))
    table.attrs["units"] = {metric.name: metric.unit for metric in columns}
    return table


_IDENTITY = (
    "id", "parent", "run", "status", "reason", "recipe", "stage", "depth", "base_kind", "model", "task",
    "model_fingerprint", "task_fingerprint", "seed", "started",
)  # fmt: skip
_MACHINE = ("device", "device_name", "cpu", "threads")
