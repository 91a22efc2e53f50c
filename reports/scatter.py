"""Quality against a cost, with its Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.front import front
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports.axes import Axis, axis_of, titled
from reports.drawing import HEIGHT, WIDTH, Drawing, spec_of

_BASELINE, _FRONT, _OTHER = "baseline", "on the front", "behind the front"
_COLOURS = {_BASELINE: "#D55E00", _FRONT: "#1f83c4", _OTHER: "#8a8f98"}

_NARROW = 400  # below it, only the labels of the front and the baseline stay
_LABELS = 60  # placing labels is quadratic, and more would be noise


def scatter(comparison: Comparison, cost: Metric, quality: Metric) -> Drawing | None:
    """`quality` against `cost`: a point a recipe, its t intervals, and the front of what no other recipe
    beats.

    Recipes that did not end ok for every seed are left out; None where fewer than two are left.
    """
    import altair as alt

    rows = [row for row in comparison.rows if row.ok and {cost.name, quality.name} <= row.figures.keys()]
    if len(rows) < 2:
        return None
    points = [(row.figures[cost.name].value, row.figures[quality.name].value) for row in rows]
    on_front = front(points, (cost.better, quality.better))
    across = axis_of([row.figures[cost.name] for row in rows], log=True)
    up = axis_of([row.figures[quality.name] for row in rows], log=False)
    best = set(on_front)
    data = [_point(row, cost, quality, index in best) for index, row in enumerate(rows)]
    _place_labels(data, [points[index] for index in on_front], across, up)

    x = alt.X("x:Q", scale=across.scale(alt), axis=across.axis(alt), title=titled(cost))
    y = alt.Y("y:Q", scale=up.scale(alt), axis=up.axis(alt), title=titled(quality))
    base = alt.Chart(alt.NamedData("recipes")).encode(x=x, y=y)
    path = [{"x": points[i][0], "y": points[i][1], "order": n} for n, i in enumerate(on_front)]
    line = alt.Chart(alt.NamedData("front")).mark_line(
        interpolate="step-after", stroke=_COLOURS[_FRONT], strokeDash=[4, 3], strokeWidth=1.5, opacity=0.75
    )
    hue = alt.Color(
        "role:N",
        scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())),
        legend=None,
    )
    shape = alt.Shape(
        "role:N", scale=alt.Scale(domain=list(_COLOURS), range=["diamond", "circle", "circle"]), legend=None
    )
    tooltip = [alt.Tooltip(f"{key}:N", title=title) for key, title in _tooltips(cost, quality)]
    bars = {"opacity": 0.55, "strokeWidth": 1.25}
    layers = [
        line.encode(x=x, y=y, order="order:Q"),
        base.transform_filter("isValid(datum.x0)").mark_rule(**bars).encode(x=alt.X("x0:Q"), x2="x1:Q", color=hue),
        base.transform_filter("isValid(datum.y0)").mark_rule(**bars).encode(y=alt.Y("y0:Q"), y2="y1:Q", color=hue),
        base.mark_point(filled=True, size=75, opacity=1).encode(color=hue, shape=shape, tooltip=tooltip),
        base.transform_filter("datum.label != ''")
        .mark_text(
            align=alt.expr("datum.align"),
            dx=alt.expr("datum.dx"),
            dy=alt.expr("datum.dy"),
            opacity=alt.expr(f"width < {_NARROW} && datum.role == '{_OTHER}' ? 0 : 0.9"),
            baseline="middle",
            fontSize=11,
            color="currentColor",
        )
        .encode(text="label:N"),
    ]
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    direction = "left" if cost.better == "lower" else "right"
    upward = "top" if quality.better == "higher" else "bottom"
    return Drawing(
        f"{quality.title} and {cost.title[0].lower()}{cost.title[1:]}",
        f"Best is {upward} {direction}. The dashed line joins the recipes that no other beats in both; "
        f"the diamond is the baseline. "
        + (
            "Bars are 95 % intervals over seeds."
            if any("y0" in each for each in data)
            else "One seed, so no intervals."
        ),
        spec_of(chart, recipes=data, front=path),
    )


def _point(row: Row, cost: Metric, quality: Metric, on_front: bool) -> dict[str, Any]:
    x, y = row.figures[cost.name], row.figures[quality.name]
    point: dict[str, Any] = {
        "x": x.value,
        "y": y.value,
        "name": row.name,
        "recipe": row.recipe,
        "role": _BASELINE if row.is_baseline else _FRONT if on_front else _OTHER,
        "front": "yes" if on_front else "no",
        "xt": f"{x}{' ⚠ machine busy' if x.contended else ''}",
        "yt": str(y),
    }
    if x.interval and x.interval[0] > 0:
        point |= {"x0": x.interval[0], "x1": x.interval[1]}
    if y.interval:
        point |= {"y0": y.interval[0], "y1": y.interval[1]}
    return point


def _tooltips(cost: Metric, quality: Metric) -> list[tuple[str, str]]:
    return [
        ("name", "recipe"),
        ("recipe", "is"),
        ("yt", quality.title),
        ("xt", cost.title),
        ("front", "on the front"),
    ]


def _place_labels(data: list[dict[str, Any]], corners: Sequence[tuple[float, float]], across: Axis, up: Axis) -> None:
    """Put each name where it covers no point and no other name, the front's first; leave it out where it
    cannot.

    Where there is a choice, it does not lie on the front's line through `corners` either.
    """

    def pixel(x: float, y: float) -> tuple[float, float]:
        return across.place(x) * WIDTH, (1 - up.place(y)) * HEIGHT

    centres = [pixel(each["x"], each["y"]) for each in data]
    steps = [pixel(*corner) for corner in corners]
    line = []
    for (x0, y0), (x1, y1) in itertools.pairwise(steps):
        line += [(min(x0, x1), y0 - 1, max(x0, x1), y0 + 1), (x1 - 1, min(y0, y1), x1 + 1, max(y0, y1))]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    ranks = {_BASELINE: 0, _FRONT: 1, _OTHER: 2}
    for each in data:
        each |= {"label": "", "align": "left", "dx": 0, "dy": 0}
    for index in sorted(range(len(data)), key=lambda index: ranks[data[index]["role"]])[:_LABELS]:
        x, y = centres[index]
        text = data[index]["name"] if len(data[index]["name"]) <= 28 else data[index]["name"][:27] + "…"
        wide = 6.0 * len(text) + 2
        spots = [
            ("left", 9, 0, x + 9),
            ("right", -9, 0, x - 9 - wide),
            ("center", 0, -13, x - wide / 2),
            ("center", 0, 13, x - wide / 2),
            ("left", 7, -11, x + 7),
            ("left", 7, 11, x + 7),
            ("right", -7, -11, x - 7 - wide),
            ("right", -7, 11, x - 7 - wide),
        ]
        free: list[tuple[int, int, tuple[float, float, float, float], str, int, int]] = []
        for align, dx, dy, left in spots:
            box = (left, y + dy - 7, left + wide, y + dy + 7)
            inside = box[0] >= 0 and box[2] <= WIDTH + 8 and box[1] >= -6 and box[3] <= HEIGHT
            if inside and not any(_overlap(box, other) for n, other in enumerate(taken) if n != index):
                free.append((sum(_overlap(box, segment) for segment in line), len(free), box, align, dx, dy))
        if free:
            _, _, box, align, dx, dy = min(free)
            taken.append(box)
            data[index] |= {"label": text, "align": align, "dx": dx, "dy": dy}


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
