"""How long inference takes: a series of metrics, one for each shape, phase and clock that was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Literal

from bench.metrics.metric import Metric, MetricSeries, Path, Record, Summary, rate

Phase = Literal["forward", "prefill", "decode"]
Clock = Literal["wall", "cpu"]

_PHASES: dict[Phase, tuple[str, str, str, str]] = {
    "forward": ("latency", "Latency", "CPU time", "one forward pass of a batch of {of} tokens"),
    "decode": (
        "time_per_token",
        "Time per token",
        "CPU time per token",
        "one more token for each of a batch of {of} tokens, read with the cache of keys and values and chosen greedily, "
        "the mean over a fixed number of tokens; of the model alone, without what transformers' generate does around it, "
        "which on a small model can be as much again (1.39 times on tiny-llama)",
    ),
    "prefill": (
        "prefill",
        "Prefill",
        "CPU time of prefill",
        "reading a batch of prompts of {of} tokens into a new cache of keys and values and choosing the first token",
    ),
}
"""Of each phase of inference: the metric's name, its titles for wall and CPU time, and what the clock holds.

The first that was measured stands for all where there is room for one.
"""

_SHOWN = Summary(order=40, heading="latency", best="answers fastest")


def latency(batch: int, length: int, clock: Clock, phase: Phase = "forward") -> Metric:
    """The metric of one latency shape and phase."""

    def read(path: Path) -> float | None:
        sets = [
            entry["values"]
            for entry in (path[-1].get("latency") or [] if path else [])
            if _shape(entry) == (batch, length, clock, phase)
        ]
        return median(median(values) for values in sets) if sets else None

    name, title, cpu_title, what = _PHASES[phase]
    of = f"{batch}×{length}"
    what = what.format(of=of.replace("×", " × "))
    if clock == "wall":
        return Metric(
            f"{name}_{batch}x{length}", f"{title} {of}", "s", "lower", "latency",
            f"wall time of {what}, all threads, device synchronised; median of samples, then of processes", read,
            summary=_SHOWN,
        )  # fmt: skip
    return Metric(
        f"cpu_{name}_{batch}x{length}", f"{cpu_title} {of}", "s", "lower", "latency",
        f"process CPU time of {what} on one thread, "
        "which other programs on the machine hardly disturb; median of samples, then of processes", read,
        summary=_SHOWN,
    )  # fmt: skip


def decode_rate(batch: int, length: int, clock: Clock) -> Metric:
    """The rate of one decoding shape."""
    of = latency(batch, length, clock, "decode")

    def read(path: Path) -> float | None:
        seconds = of.read(path)
        return None if seconds is None else rate([batch], [seconds])

    prefix, title = ("", "Tokens") if clock == "wall" else ("cpu_", "CPU tokens")
    return Metric(
        f"{prefix}decode_tokens_per_second_{batch}x{length}", f"{title} a second {batch}×{length}", "tokens/s", "higher",
        "latency", f"new tokens of all {batch} answers over their time: {batch} / {of.name}", read,
    )  # fmt: skip


def speedup(batch: int, length: int, clock: Clock, phase: Phase = "forward") -> Metric:
    """How much faster a compressed model is than the uncompressed one, timed in turns."""

    def read(path: Path) -> float | None:
        sets = [
            [theirs / ours for ours, theirs in zip(entry["values"], entry["uncompressed"]["values"], strict=True)]
            for entry in (path[-1].get("latency") or [] if path else [])
            if _shape(entry) == (batch, length, clock, phase) and "uncompressed" in entry
        ]
        return median(median(ratios) for ratios in sets) if sets else None

    of = latency(batch, length, clock, phase)
    return Metric(
        f"{of.name}_speedup", f"{of.title}, gain", "×", "higher", "latency",
        f"{of.name} of the uncompressed model over that of this one, both timed in one process in turns; "
        "median over pairs of neighbouring samples, then over processes", read, about="compression",
    )  # fmt: skip


def _shape(entry: Mapping[str, Any]) -> tuple[int, int, Clock, Phase]:
    # Records of the first version have no phase.
    return entry["batch"], entry["length"], entry["clock"], entry.get("phase", "forward")


def _named(name: str) -> Metric | None:
    names = "|".join(name for name, *_ in _PHASES.values())
    match = re.fullmatch(rf"(cpu_)?({names}|decode_tokens_per_second)_(\d+)x(\d+)(_speedup)?", name)
    if match is None:
        return None
    batch, length = int(match[3]), int(match[4])
    clock: Clock = "cpu" if match[1] else "wall"
    for phase, (start, *_) in _PHASES.items():
        if match[2] == start:
            return (speedup if match[5] else latency)(batch, length, clock, phase)
    return decode_rate(batch, length, clock)


def _measured(records: Iterable[Record]) -> list[Metric]:
    shapes: dict[tuple[int, int, Clock, Phase], bool] = {}  # and whether it was timed beside another model
    for record in records:
        for entry in record.get("latency") or []:
            shape = _shape(entry)
            shapes[shape] = shapes.get(shape, False) or "uncompressed" in entry
    latencies = [latency(*shape) for phase in _PHASES for shape in shapes if shape[-1] == phase]
    rates = [decode_rate(batch, length, clock) for batch, length, clock, phase in shapes if phase == "decode"]
    gains = [speedup(*shape) for phase in _PHASES for shape, beside in shapes.items() if shape[-1] == phase and beside]
    return [*latencies, *rates, *gains]


LATENCIES = MetricSeries("latency", _named, _measured)
