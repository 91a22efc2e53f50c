"""Where the cost goes: the memory of training by what holds it, and the time of a seed by what it was spent on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from reports import words
from reports.drawing import PALETTE, Drawing, spec_of

_MOST = 40  # recipes that one can still tell apart

HOLDERS = {
    "weight_bytes": "weights",
    "gradient_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "activation_bytes": "saved activations",
}
"""What holds the memory of a training, by the metric that counts it."""

PHASES = {
    "train": "train",
    "validate": "score while training",
    "checkpoint": "save while training",
    "apply": "compress",
    "evaluate": "score the test items",
    "latency": "time inference",
    "count": "count memory and FLOPs",
    "evidence": "check the evidence",
    "load": "load",
    "save": "save",
}
"""What the time of a stage is spent on, by the name in its record."""

_TOTAL = "total"


def memory(comparison: Comparison) -> Drawing | None:
    """The memory of each training, by what holds it, and its peak; None where it was counted for none."""
    rows = [row for row in _trained_apart(comparison) if row.figures.keys() & HOLDERS.keys()]
    if not rows:
        return None
    data = [
        {"name": row.name, "part": part, "value": row.figures[name].value / 1e6}
        for row in rows
        for name, part in HOLDERS.items()
        if name in row.figures
    ]
    peaks = [
        {"name": row.name, "value": row.figures["train_peak_bytes"].value / 1e6}
        for row in rows
        if "train_peak_bytes" in row.figures
    ]
    return Drawing(
        "memory",
        "Training memory, by what holds it",
        "What is counted at a step, in MB. The mark is the measured peak: it has temporary buffers in it, and it can be less than "
        "the sum, as activations are freed while gradients come. Recipes that share a training are shown once.",
        spec_of(
            _bars(data, list(HOLDERS.values()), [row.name for row in rows], "MB", peaks=True), parts=data, peaks=peaks
        ),
    )


def time(comparison: Comparison) -> Drawing | None:
    """The seconds of one seed, the mean over seeds, by what they were spent on; None where that is not recorded."""
    rows = [row for row in comparison.rows if row.ok and row.phases.get(_TOTAL)][:_MOST]
    data = []
    for row in rows:
        known = {part: row.phases[name] for name, part in PHASES.items() if row.phases.get(name)}
        rest = row.phases[_TOTAL] - sum(known.values())
        data += [{"name": row.name, "part": part, "value": value} for part, value in known.items()]
        if rest > 0:
            data.append({"name": row.name, "part": "all else", "value": rest})
    if not data:
        return None
    return Drawing(
        "time",
        "Time of one seed, by what it was spent on",
        "All stages of a recipe, also those that it shares with others; the training clock has the steps alone in it.",
        spec_of(_bars(data, [*PHASES.values(), "all else"], [row.name for row in rows], "seconds"), parts=data),
    )


def _trained_apart(comparison: Comparison) -> list[Row]:
    """The recipes, each training once."""
    return [group[0] for group in words.by_training(row for row in comparison.rows if row.ok)][:_MOST]


def _bars(
    data: Iterable[Mapping[str, Any]], parts: list[str], names: list[str], unit: str, *, peaks: bool = False
) -> Any:
    import altair as alt

    present = {each["part"] for each in data}
    shown = [part for part in parts if part in present]
    colours = [*PALETTE, "#999933", "#882255"]
    x = alt.X("value:Q", title=unit, axis=alt.Axis(tickCount=6))
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=190, labelPadding=10, grid=False))
    hue = alt.Color(
        "part:N",
        scale=alt.Scale(domain=shown, range=colours[: len(shown)]),
        legend=alt.Legend(title=None, orient="bottom", columns=3, labelLimit=170),
    )
    tooltip = [alt.Tooltip("name:N", title="recipe"), "part:N", alt.Tooltip("value:Q", title=unit, format=".3s")]
    bars = alt.Chart(alt.NamedData("parts")).mark_bar(height=13).encode(
        x=x, y=y, color=hue, order=alt.Order("place:Q"), tooltip=tooltip
    ).transform_calculate(place=f"indexof({shown!r}, datum.part)")  # fmt: skip
    peak = alt.Chart(alt.NamedData("peaks")).mark_tick(thickness=2.5, size=18, color="currentColor").encode(
        x=x, y=y, tooltip=[alt.Tooltip("name:N", title="recipe"), alt.Tooltip("value:Q", title=f"peak, {unit}", format=".3s")]
    )  # fmt: skip
    return alt.layer(*([bars, peak] if peaks else [bars])).properties(width="container", height=21 * len(names))
