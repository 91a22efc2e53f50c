"""The loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from reports import words
from reports.drawing import HEIGHT, PALETTE, Drawing, short, spec_of

ACROSS = {
    "step": "step, over all training stages",
    "seconds": "seconds of training",
    "tokens": "tokens of training",
}
"""What the loss can be seen against, with the axis's title."""

_DASHES = ([1, 0], [6, 3], [2, 2])
_CURVES = 20  # more than this nobody can read in one figure
_STEPS = 60  # points of a loss curve, each the mean of its share of the steps


def losses(comparison: Comparison) -> Drawing | None:
    """The training loss of each recipe: the mean over seeds, with the range of the seeds. None where none trained.

    It is drawn by step; the data has the other keys of :data:`ACROSS` too. Recipes that share their training share a curve.
    """
    shared = words.by_training(row for row in comparison.rows if row.losses)
    groups = shared[:_CURVES]
    names = [_curve_name(group) for group in groups]
    points = [{"name": name, **point} for name, group in zip(names, groups, strict=True) for point in _curve(group[0])]
    if not points:
        return None
    several = len(comparison.seeds) > 1
    left_out = len(shared) - len(groups)
    return Drawing(
        "losses",
        "Training loss",
        "Each point is the mean of a few steps"
        + (", the line the mean over seeds, and the shade their range" if several else "")
        + ". A low training loss is not yet quality."
        + (f" {left_out} more curves are left out." if left_out else ""),
        spec_of(_chart(names, points, several=several), points=points),
    )


def _curve(row: Row) -> list[dict[str, float]]:
    """The points of a recipe: means over seeds, with the least and the most of them."""
    by_step: dict[float, list[Mapping[str, float]]] = {}
    for seed, values in row.losses.items():
        for point in _thinned(values, *row.clock.get(seed, ((), ()))):
            by_step.setdefault(point["step"], []).append(point)
    found = []
    for _, points in sorted(by_step.items()):
        # Seeds may have stopped at different steps.
        keys = [key for key in points[0] if all(key in each for each in points)]
        mean = {key: short(math.fsum(each[key] for each in points) / len(points)) for key in keys}
        ends = [each["loss"] for each in points]
        found.append({**mean, "low": short(min(ends)), "high": short(max(ends))})
    return found


def _thinned(
    values: Sequence[float], seconds: Sequence[float] = (), tokens: Sequence[float] = ()
) -> list[dict[str, float]]:
    """At most ``_STEPS`` points (step from 1, loss, and where they are known seconds and tokens): means over runs of steps.
    What is not finite is left out."""
    width = max(1, math.ceil(len(values) / _STEPS))
    points = []
    for start in range(0, len(values), width):
        share = [value for value in values[start : start + width] if math.isfinite(value)]
        if not share:
            continue
        point = {"step": start + (width + 1) / 2, "loss": math.fsum(share) / len(share)}
        for key, clock in (("seconds", seconds), ("tokens", tokens)):
            if len(clock) == len(values):
                part = clock[start : start + width]
                point[key] = math.fsum(part) / len(part)
        points.append(point)
    return points


def _chart(names: list[str], points: Sequence[Mapping[str, Any]], *, several: bool) -> Any:
    """The curves called `names`, of `several` seeds or one."""
    import altair as alt

    look = range(len(names))
    selection = alt.selection_point(fields=["name"], bind="legend")
    hue = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in look]),
        legend=alt.Legend(
            title=None, orient="bottom", columns=3, labelLimit=150, symbolType="stroke", symbolSize=220, symbolOpacity=1
        ),
    )
    dash = alt.StrokeDash(
        "name:N", scale=alt.Scale(domain=names, range=[_DASHES[i // len(PALETTE) % len(_DASHES)] for i in look])
    )
    x = alt.X("step:Q", title=ACROSS["step"], axis=alt.Axis(tickMinStep=1, tickCount=6))
    # A run that diverges would press all others flat, so the top is where the ordinary curves begin.
    top = _ordinary_top([point["loss"] for point in points])
    y = alt.Y(
        "loss:Q", title="training loss", scale=alt.Scale(zero=False, **({} if top is None else {"domainMax": top}))
    )
    base = alt.Chart(alt.NamedData("points"))
    shade = base.mark_area(clip=True).encode(
        x=x, y=alt.Y("low:Q"), y2="high:Q", color=hue, opacity=alt.condition(selection, alt.value(0.13), alt.value(0.0))
    )
    mean = base.mark_line(clip=True, strokeWidth=2).encode(
        x=x,
        y=y,
        color=hue,
        strokeDash=dash,
        opacity=alt.condition(selection, alt.value(1), alt.value(0.08)),
        tooltip=[
            alt.Tooltip("name:N", title="recipe"),
            alt.Tooltip("step:Q", format=".0f"),
            alt.Tooltip("loss:Q", title="mean loss", format=".3f"),
        ],
    )
    layers = [shade, mean] if several else [mean]
    return alt.layer(*layers).add_params(selection).properties(width="container", height=HEIGHT)


def _ordinary_top(values: Sequence[float]) -> float | None:
    """Where the axis ends when some values are far above the rest; None where none are."""
    ordered = sorted(values)
    middle, high = ordered[len(ordered) // 2], ordered[int(0.97 * (len(ordered) - 1))]
    ceiling = max(high, middle) * 1.15
    return ceiling if ordered[-1] > 2 * ceiling > 0 else None


def _curve_name(group: Sequence[Row]) -> str:
    more = len(group) - 1
    return group[0].name + (f" (+{more} that share it)" if more else "")
