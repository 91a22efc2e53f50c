"""The loss curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from reports.drawing import HEIGHT, PALETTE, Drawing, spec_of

_DASHES = ([1, 0], [6, 3], [2, 2])
_CURVES = 20  # more than this nobody can read in one figure
_STEPS = 60  # points of a loss curve, each the mean of its share of the steps


def losses(comparison: Comparison) -> Drawing | None:
    """The training loss of each recipe by step: the mean over seeds, and each seed faintly. None where none
    trained.

    Recipes that share their training share a curve.
    """
    shared: dict[tuple[str, ...], list[Row]] = {}
    for row in comparison.rows:
        if row.losses:
            shared.setdefault(row.training, []).append(row)
    groups = list(shared.values())[:_CURVES]
    names = [_curve_name(group) for group in groups]
    means, seeds = _points(names, groups)
    if not means:
        return None
    chart = _chart(names, means, several=len(comparison.seeds) > 1)
    left_out = len(shared) - len(groups)
    return Drawing(
        "Training loss",
        "Each point is the mean of a few steps"
        + (", the thick line the mean over seeds" if len(comparison.seeds) > 1 else "")
        + ". Choose a name in the legend to see its curve alone. A low training loss is not yet quality."
        + (f" {left_out} more curves are left out." if left_out else ""),
        spec_of(chart, means=means, seeds=seeds),
    )


def _points(names: Sequence[str], groups: Sequence[Sequence[Row]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The points of the means over seeds, and of each seed."""
    means: list[dict[str, Any]] = []
    seeds: list[dict[str, Any]] = []
    for name, group in zip(names, groups, strict=True):
        curves = {seed: _thinned(values) for seed, values in group[0].losses.items()}
        for seed, curve in curves.items():
            seeds += [{"name": name, "seed": seed, "step": step, "loss": loss} for step, loss in curve]
        by_step: dict[float, list[float]] = {}
        for curve in curves.values():
            for step, loss in curve:
                by_step.setdefault(step, []).append(loss)
        means += [
            {"name": name, "step": step, "loss": math.fsum(values) / len(values)}
            for step, values in sorted(by_step.items())
        ]
    return means, seeds


def _chart(names: list[str], means: Sequence[Mapping[str, Any]], *, several: bool) -> Any:
    """The curves called `names`, of `several` seeds or one."""
    import altair as alt

    look = range(len(names))
    selection = alt.selection_point(fields=["name"], bind="legend")
    hue = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in look]),
        legend=alt.Legend(
            title=None,
            orient="bottom",
            columns=2,
            labelLimit=150,
            symbolType="stroke",
            symbolSize=220,
            symbolOpacity=1,
        ),
    )
    dash = alt.StrokeDash(
        "name:N",
        scale=alt.Scale(domain=names, range=[_DASHES[i // len(PALETTE) % len(_DASHES)] for i in look]),
    )
    x = alt.X("step:Q", title="step, over all training stages", axis=alt.Axis(tickMinStep=1, tickCount=6))
    # A run that diverges would press all others flat, so the top is where the ordinary curves begin.
    top = _ordinary_top([point["loss"] for point in means])
    y = alt.Y(
        "loss:Q",
        title="training loss",
        scale=alt.Scale(zero=False, **({} if top is None else {"domainMax": top})),
    )
    faint = (
        alt.Chart(alt.NamedData("seeds"))
        .mark_line(clip=True, strokeWidth=0.75)
        .encode(
            x=x,
            y=y,
            color=hue,
            detail="seed:N",
            opacity=alt.condition(selection, alt.value(0.22), alt.value(0.0)),
        )
    )
    mean = (
        alt.Chart(alt.NamedData("means"))
        .mark_line(clip=True, strokeWidth=2)
        .encode(
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
    )
    return (
        alt.layer(*([faint, mean] if several else [mean]))
        .add_params(selection)
        .properties(width="container", height=HEIGHT)
    )


def _thinned(values: Sequence[float]) -> list[tuple[float, float]]:
    """At most ``_STEPS`` points (step from 1, loss): means over runs of steps. What is not finite is left
    out."""
    width = max(1, math.ceil(len(values) / _STEPS))
    points = []
    for start in range(0, len(values), width):
        share = [value for value in values[start : start + width] if math.isfinite(value)]
        if share:
            points.append((start + (width + 1) / 2, math.fsum(share) / len(share)))
    return points


def _ordinary_top(values: Sequence[float]) -> float | None:
    """Where the axis ends when some values are far above the rest; None where none are."""
    ordered = sorted(values)
    middle, high = ordered[len(ordered) // 2], ordered[int(0.97 * (len(ordered) - 1))]
    ceiling = max(high, middle) * 1.15
    return ceiling if ordered[-1] > 2 * ceiling > 0 else None


def _curve_name(group: Sequence[Row]) -> str:
    more = len(group) - 1
    return group[0].name + (f" (+{more} that share it)" if more else "")
