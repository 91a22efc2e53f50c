"""Results of optimum-benchmark: ``benchmark.json``, or ``benchmark_report.json`` with ``benchmark_config.json`` beside it.

Source: https://github.com/huggingface/optimum-benchmark, ``benchmark/report.py`` and ``trackers``, at b263af4 (0.6.0 and on).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reports.exchange.base import Foreign, Part, Value

FORM = "optimum-benchmark (report and config, or targets such as forward with latency, memory …)"
MEND = "this version reads what optimum-benchmark 0.2 to 0.6 writes; run the benchmark again with it"

_PARTS = {"memory", "latency", "throughput", "energy", "efficiency"}


def fits(found: Mapping[str, Any]) -> bool:
    """Whether it is a whole benchmark, or a report, whose parts are targets."""
    whole = "report" in found and "config" in found
    return whole or (bool(found) and all(isinstance(each, dict) and each.keys() & _PARTS for each in found.values()))


def read(found: Part) -> list[Foreign]:
    """A row for each target, such as ``forward``, ``prefill`` or ``train``.

    Raises:
        RecordError: it has another shape.
    """
    whole = "report" in found.found
    report, config = (found.part("report"), found.part("config")) if whole else (found, _beside(found))
    backend, environment = config.maybe("backend"), config.maybe("environment")
    return [
        Foreign(
            file=found.file.name,
            tool="optimum-benchmark",
            version=environment.text("optimum_benchmark_version"),
            date="",
            name=" ".join(part for part in (config.text("name"), target) if part),
            model=backend.text("model"),
            task=backend.text("task"),
            machine=environment.text("gpu") or environment.text("cpu").strip(),
            values=tuple(_values(report.part(target))),
        )
        for target in report
    ]


def _beside(found: Part) -> Part:
    """The configuration that is saved beside a report; an empty one where it is not there, or cannot be read."""
    file = found.file.with_name("benchmark_config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return Part(file, config if isinstance(config, dict) else {}, MEND)


def _values(target: Part) -> Iterator[Value]:
    for kind, keys in (
        ("latency", ("mean", "p50", "p90", "p99")),
        ("throughput", ("value",)),
        ("memory", ("max_ram", "max_global_vram", "max_process_vram", "max_reserved", "max_allocated")),
        ("energy", ("total",)),
        ("efficiency", ("value",)),
    ):
        part = target.maybe(kind)
        if not part.found:
            continue
        if not (unit := part.text("unit")):
            raise part.wrong("unit", "is missing")
        known = [(key, value) for key in keys if (value := part.number(key)) is not None]
        if not known:
            raise part.wrong(keys[0], "is missing")
        yield from (Value(kind if key == "value" else f"{kind} {key}", value, unit) for key, value in known)
