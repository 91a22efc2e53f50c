"""The forest plot: how each recipe's quality differs from the baseline's, with its interval and its seeds."""

from __future__ import annotations

from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports import words
from reports.drawing import VERDICTS, Drawing, pinned, pins, spec_of

MOST = 60  # recipes that one can still tell apart


def forest(comparison: Comparison) -> Drawing | None:
    """The difference of the primary quality of each recipe that ended ok for every seed; None where nothing is compared."""
    import altair as alt

    metric = comparison.primary
    data = differences(comparison)
    if metric is None or not data["recipes"]:
        return None
    unit = "points" if metric.unit == "fraction" else metric.unit
    x = alt.X("value:Q", title=f"{metric.title.lower()} minus the baseline's, {unit}", axis=alt.Axis(tickCount=7))
    y = alt.Y(
        "name:N", sort=alt.SortField("place"), title=None, axis=alt.Axis(labelLimit=190, labelPadding=10, grid=False)
    )
    hue = alt.Color("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())), legend=None)
    base = alt.Chart(alt.NamedData("recipes"))
    tooltip = [alt.Tooltip("name:N", title="recipe"), alt.Tooltip("text:N", title="difference"), "verdict:N"]
    layers = [
        alt.Chart(alt.NamedData("margin")).mark_rect(opacity=0.13, color=VERDICTS["same"]).encode(x="low:Q", x2="high:Q"),
        alt.Chart(alt.NamedData("margin")).mark_rule(strokeWidth=1, opacity=0.6, color="currentColor").encode(x="none:Q"),
        alt.Chart(alt.NamedData("seeds"))
        .mark_tick(thickness=1.5, size=9, opacity=0.45, color="currentColor")
        .encode(x=x, y=y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule()
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=hue, strokeWidth=pinned(alt, pinned=4, other=2)),
        base.mark_point(filled=True, size=95, opacity=1, strokeWidth=2)
        .encode(
            x=x, y=y, stroke=hue, tooltip=tooltip,
            color=alt.condition("datum.verdict == 'not settled'", alt.value("transparent"), hue),
            shape=alt.Shape(
                "verdict:N",
                scale=alt.Scale(domain=list(VERDICTS), range=["diamond", "triangle-up", "circle", "triangle-down", "circle"]),
                legend=None,
            ),
        ),
    ]  # fmt: skip
    chart = alt.layer(*layers).add_params(pins(alt)).properties(width="container", height=24 * len(data["recipes"]))
    left_out = len(_compared(comparison, metric)) - len(data["recipes"])
    return Drawing(
        "forest",
        f"{metric.title}: how much each recipe differs from the baseline",
        f"A point is the mean difference, the line its 95 % interval (cut off at the ends of the plot), and each tick a seed. "
        f"The band is the margin, ±{words.margin(metric, _margin(comparison, metric))}: up to it a difference does not matter. "
        "A hollow point is not settled." + (f" {left_out} more recipes are left out." if left_out else ""),
        spec_of(chart, **data),
    )


def differences(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """What the plot shows, a list for each of its data sets, in points of a share or in the metric's own unit."""
    metric = comparison.primary
    if metric is None:
        return {"recipes": [], "seeds": [], "margin": []}
    scale = 100.0 if metric.unit == "fraction" else 1.0
    base = next(
        (row.figures[metric.name] for row in comparison.rows if row.is_baseline and metric.name in row.figures), None
    )
    margin = scale * _margin(comparison, metric)
    shown = _compared(comparison, metric)[:MOST] if base else []
    sign = -1 if metric.better == "higher" else 1
    shown.sort(key=lambda row: sign * row.changes[metric.name].value)
    seeds: list[dict[str, Any]] = [
        {"name": row.name, "place": place, "value": scale * (value - base.by_seed[seed])}
        for place, row in enumerate(shown)
        for seed, value in row.figures[metric.name].by_seed.items()
        if base and seed in base.by_seed
    ]
    values = [each["value"] for each in seeds] + [-margin, margin]
    room = 0.15 * (max(values) - min(values))
    first, last = min(values) - room, max(values) + room
    recipes = []
    for place, row in enumerate(shown):
        change = row.changes[metric.name]
        point = {
            "name": row.name,
            "place": place,
            "value": scale * change.value,
            "verdict": change.verdict,
            "text": words.spelled(change),
        }
        if change.interval:
            point |= {"low": max(scale * change.interval[0], first), "high": min(scale * change.interval[1], last)}
        recipes.append(point)
    return {"recipes": recipes, "seeds": seeds, "margin": [{"low": -margin, "high": margin, "none": 0}]}


def _compared(comparison: Comparison, metric: Metric) -> list[Row]:
    return [row for row in comparison.rows if row.ok and metric.name in row.changes]


def _margin(comparison: Comparison, metric: Metric) -> float:
    return next((row.changes[metric.name].margin for row in comparison.rows if metric.name in row.changes), 0.0)
