"""Latency samples as a file that pyperf opens: ``python -m pyperf stats FILE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a record's latency entries as a pyperf suite: a benchmark for each shape and clock, a run a process.

    An existing file is replaced.

    Raises:
        ValueError: there is no entry, or a value is not above 0.
    """
    import pyperf

    runs: dict[str, list[Any]] = {}
    for entry in entries:
        phase = entry.get("phase", "forward")
        name = f"{phase} {entry['batch']}x{entry['length']}, {entry['clock']} time, {entry['threads']} threads"
        run = pyperf.Run(
            entry["values"],
            warmups=[(1, seconds) for seconds in entry["warmups"]],
            metadata={"name": name, "unit": entry["unit"], "loops": entry["loops"]},
            collect_metadata=False,
        )
        runs.setdefault(name, []).append(run)
    suite = pyperf.BenchmarkSuite([pyperf.Benchmark(of_name) for of_name in runs.values()])
    suite.dump(str(path), replace=True)
