"""How learning rates were chosen, and how models scored while they trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.metrics.metric import Metric
from bench.metrics.units import counted, show
from reports.axes import titled
from reports.drawing import HEIGHT, PALETTE, Drawing, hue, short, spec_of

_CURVES = 14  # lines that one can still tell apart

HEAD = ("recipe", "rate chosen", "its validation score", "every rate tried", "time of all trials")


def said(comparison: Comparison) -> str:
    """Whether learning rates were tuned, in a sentence; empty where nothing trained."""
    if not any(row.losses for row in comparison.rows):
        return ""
    if not comparison.tunings:
        return "Learning rates were not tuned: each is the method's default, or the one that the suite gives."
    first = comparison.tunings[0]
    total = math.fsum(tuning.seconds for tuning in comparison.tunings)
    return (
        f"Each recipe runs with the best of {counted(len(first.trials), 'learning rate')} by the validation "
        f"{first.metric.title.lower()}, each tried once with seed {first.seed}. The trials took {show(total, 's')} in all."
    )


def table(comparison: Comparison) -> list[list[str]]:
    """A line of :data:`HEAD` for each recipe that was tuned."""
    return [
        [
            tuning.recipe,
            "–" if tuning.lr is None else f"{tuning.lr:g}",
            show(tuning.best.value if tuning.best else None, tuning.metric.unit),
            ", ".join(
                f"{trial.lr:g}: {trial.status or 'not run' if trial.value is None else show(trial.value, tuning.metric.unit)}"
                for trial in tuning.trials
            ),
            show(tuning.seconds, "s"),
        ]
        for tuning in comparison.tunings
    ]


def tuned(comparison: Comparison) -> Drawing | None:
    """The validation score of each recipe by learning rate; None where none was tuned."""
    import altair as alt

    tunings = comparison.tunings[:_CURVES]
    points = [
        {"name": tuning.recipe, "lr": trial.lr, "value": short(trial.value), "chosen": trial.lr == tuning.lr}
        for tuning in tunings
        for trial in tuning.trials
        if trial.value is not None
    ]
    if not points:
        return None
    names = [tuning.recipe for tuning in tunings]
    axis = alt.Axis(
        format="~g", values=sorted({trial.lr for tuning in tunings for trial in tuning.trials}), labelOverlap=True
    )
    x = alt.X("lr:Q", title="learning rate", scale=alt.Scale(type="log"), axis=axis)
    chart = _lines("tuning", x, names, tunings[0].metric)
    dots = chart.mark_point(size=70, opacity=1).encode(
        fill=alt.condition("datum.chosen", hue(alt, names), alt.value("transparent")),
        tooltip=["name:N", alt.Tooltip("lr:Q", format="~g"), alt.Tooltip("value:Q", format=".4f")],
    )
    more = len(comparison.tunings) - len(tunings)
    return Drawing(
        "tuning",
        "Learning rates",
        "A full point is the rate that was chosen. A rate at which training diverged has no point."
        + (f" {counted(more, 'recipe')} more are left out." if more else ""),
        spec_of(alt.layer(chart, dots).properties(width="container", height=HEIGHT), tuning=points),
    )


def validated(comparison: Comparison) -> Drawing | None:
    """The validation score of each recipe while it trained, the mean over seeds; None where none was taken."""
    import altair as alt

    primary = comparison.primary
    rows = [row for row in comparison.rows if row.validation][:_CURVES]
    if primary is None or not rows:
        return None
    points = []
    for row in rows:
        by_step: dict[int, list[float]] = {}
        for curve in row.validation.values():
            for step, metrics in curve:
                if (value := metrics.get(primary.name)) is not None:
                    by_step.setdefault(step, []).append(value)
        points += [
            {"name": row.name, "step": step, "value": short(math.fsum(values) / len(values))}
            for step, values in sorted(by_step.items())
        ]
    if not points:
        return None
    names = [row.name for row in rows]
    x = alt.X("step:Q", title="step, over all training stages", axis=alt.Axis(tickMinStep=1, tickCount=6))
    chart = _lines("validation", x, names, primary)
    dots = chart.mark_point(size=25, opacity=1).encode(
        tooltip=["name:N", "step:Q", alt.Tooltip("value:Q", format=".4f")]
    )
    return Drawing(
        "validation",
        "Validation while training",
        "Scores on the validation split, which no recipe trains on"
        + (", the mean over seeds." if len(comparison.seeds) > 1 else "."),
        spec_of(alt.layer(chart, dots).properties(width="container", height=HEIGHT), validation=points),
    )


def _lines(data: str, x: Any, names: Sequence[str], metric: Metric) -> Any:
    """A line a name of the points called `data`."""
    import altair as alt

    dash = alt.StrokeDash(
        "name:N",
        scale=alt.Scale(domain=list(names), range=[[1, 0] if n < len(PALETTE) else [6, 3] for n in range(len(names))]),
        legend=None,
    )
    return (
        alt.Chart(alt.NamedData(data))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=alt.Y(
                "value:Q",
                title=f"validation {titled(metric)[0].lower()}{titled(metric)[1:]}",
                scale=alt.Scale(zero=False),
            ),
            color=hue(alt, names),
            strokeDash=dash,
        )
    )
