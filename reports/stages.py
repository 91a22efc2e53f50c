"""Compression: what it gains against what it keeps, and the quality after each stage."""

from __future__ import annotations

from typing import Any

from bench.compare.compare import Comparison
from reports import words
from reports.axes import titled
from reports.drawing import HEIGHT, Drawing, hue, pinned, pins, spec_of
from reports.tradeoff import tradeoff

_MOST = 14  # lines that one can still tell apart


def kept(comparison: Comparison) -> Drawing | None:
    """How much faster a compressed model answers, timed in turns, against how much of its answers it keeps."""
    known = {metric.name: metric for metric in comparison.metrics}
    agrees = known.get("agreement") or known.get("kl_divergence")
    if comparison.gain is None or agrees is None:
        return None
    return tradeoff(comparison, comparison.gain, agrees, "kept")


def slopes(comparison: Comparison) -> Drawing | None:
    """The primary quality of each chain's model after each stage, the mean over seeds; None where there is no chain."""
    import altair as alt

    metric = comparison.primary
    rows = [row for row in words.chains(comparison) if metric and all(metric.name in found for _, found in row.chain)]
    if metric is None or not rows:
        return None
    data: list[dict[str, Any]] = [
        {
            "name": row.name,
            "place": place,
            "value": found[metric.name].value,
            "stage": stage,
            "text": str(found[metric.name]),
            "last": place == len(row.chain),
        }
        for row in rows[:_MOST]
        for place, (stage, found) in enumerate(row.chain, start=1)
    ]
    names = list(dict.fromkeys(each["name"] for each in data))
    base = alt.Chart(alt.NamedData("stages")).encode(
        x=alt.X("place:O", title="after stage", axis=alt.Axis(labelAngle=0, grid=False)),
        y=alt.Y("value:Q", title=titled(metric), scale=alt.Scale(zero=False)),
        color=hue(alt, names),
        detail="name:N",
    )
    tooltip = [alt.Tooltip("name:N", title="recipe"), "stage:N", alt.Tooltip("text:N", title=metric.title)]
    chart = alt.layer(
        base.mark_line().encode(strokeWidth=pinned(alt, pinned=4, other=1.75)),
        base.mark_point(filled=True, size=60, opacity=1).encode(tooltip=tooltip),
    )
    return Drawing(
        "stages",
        f"{metric.title} after each stage",
        "Each line is a recipe of several stages: what its compression costs, and what training after it brings back."
        + (f" {len(rows) - _MOST} more are left out." if len(rows) > _MOST else ""),
        spec_of(chart.add_params(pins(alt)).properties(width="container", height=HEIGHT), stages=data),
    )
