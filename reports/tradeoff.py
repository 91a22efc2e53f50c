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
from reports.drawing import HEIGHT, PINNED, VERDICTS, WIDTH, Drawing, pinned, pins, spec_of

_LABELS = 60  # placing labels is quadratic, and more would be noise


def tradeoff(comparison: Comparison, across: Metric, up: Metric, name: str = "tradeoff") -> Drawing | None:
    """`up` against `across`: a point a recipe, its t intervals, and the front of what no other recipe beats.

    A recipe whose quality is not settled is hollow, and not on the front. Recipes that did not end ok for every seed are left
    out; None where fewer than two are left.
    """
    import altair as alt

    rows = [row for row in comparison.rows if row.ok and {across.name, up.name} <= row.figures.keys()]
    if len(rows) < 2:
        return None
    data = [_point(row, comparison, across, up) for row in rows]
    solid = [each for each in data if each["settled"]]
    best = [solid[index] for index in front([(each["x"], each["y"]) for each in solid], (across.better, up.better))]
    for each in data:
        each["front"] = any(each is other for other in best)
    x_axis, y_axis = (
        axis_of([row.figures[metric.name] for row in rows], log=metric is across) for metric in (across, up)
    )
    corners = [{"x": each["x"], "y": each["y"], "order": n} for n, each in enumerate(best)]
    _place_labels(data, [(each["x"], each["y"]) for each in corners], x_axis, y_axis)

    x = alt.X("x:Q", scale=x_axis.scale(alt), axis=x_axis.axis(alt), title=titled(across))
    y = alt.Y("y:Q", scale=y_axis.scale(alt), axis=y_axis.axis(alt), title=titled(up))
    base = alt.Chart(alt.NamedData("recipes")).encode(x=x, y=y)
    line = alt.Chart(alt.NamedData("front")).mark_line(
        interpolate="step-after", stroke="currentColor", strokeDash=[4, 3], strokeWidth=1.25, opacity=0.5, clip=True
    )
    hue = alt.Color("verdict:N", scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())), legend=None)
    tooltip = [
        alt.Tooltip("name:N", title="recipe"),
        alt.Tooltip("recipe:N", title="is"),
        alt.Tooltip("yt:N", title=up.title),
        alt.Tooltip("xt:N", title=across.title),
        alt.Tooltip("verdict:N", title="quality"),
    ]
    # The intervals are many lines over each other: they come where the pointer is, or a recipe is pinned.
    hover = alt.selection_point(name="hover", on="pointerover", nearest=True, fields=["name"], empty=False)
    bars = {"strokeWidth": 1.5, "clip": True}
    shown = alt.condition(
        f"indexof({PINNED}, datum.name) >= 0 || (hover.name && indexof(hover.name, datum.name) >= 0)",
        alt.value(0.8),
        alt.value(0),
    )
    layers = [
        line.encode(x=x, y=y, order="order:Q"),
        base.transform_filter("isValid(datum.x0)").mark_rule(**bars).encode(x="x0:Q", x2="x1:Q", color=hue, opacity=shown),
        base.transform_filter("isValid(datum.y0)").mark_rule(**bars).encode(y="y0:Q", y2="y1:Q", color=hue, opacity=shown),
        base.mark_point(filled=True, opacity=1, strokeWidth=2)
        .encode(
            color=alt.condition("datum.settled", hue, alt.value("transparent")),
            stroke=hue, size=pinned(alt, pinned=190, other=80), tooltip=tooltip,
            shape=alt.condition("datum.verdict == 'baseline'", alt.value("diamond"), alt.value("circle")),
        )
        .add_params(hover),
        base.transform_filter("datum.label != ''")
        .mark_text(
            align=alt.expr("datum.align"), dx=alt.expr("datum.dx"), dy=alt.expr("datum.dy"),
            opacity=0.9, baseline="middle", fontSize=11, color="currentColor",
        )
        .encode(text="label:N"),
    ]  # fmt: skip
    chart = alt.layer(*layers).add_params(pins(alt)).properties(width="container", height=HEIGHT)
    return Drawing(
        name,
        f"{up.title} and {across.title[0].lower()}{across.title[1:]}",
        _caption(data, across, up),
        spec_of(chart, recipes=data, front=corners),
    )


def _caption(data: Sequence[dict[str, Any]], across: Metric, up: Metric) -> str:
    """How to read the plot of `data`."""
    place = f"{'top' if up.better == 'higher' else 'bottom'} {'left' if across.better == 'lower' else 'right'}"
    return (
        f"Best is {place}. The diamond is the baseline; a hollow point's quality is not settled. The dashed line joins the "
        "recipes that no other beats in both, among those that are settled."
        + ("" if any("y0" in each for each in data) else " One seed, so no intervals.")
    )


def _point(row: Row, comparison: Comparison, across: Metric, up: Metric) -> dict[str, Any]:
    """A recipe on the plot; ``settled`` tells whether its primary quality is."""
    x, y = row.figures[across.name], row.figures[up.name]
    verdict = standing(row, comparison)
    found: dict[str, Any] = {
        "x": x.value,
        "y": y.value,
        "name": row.name,
        "recipe": row.recipe,
        "verdict": verdict,
        "settled": verdict != "not settled",
        "xt": f"{x}{' ⚠ machine busy' if x.contended else ''}",
        "yt": str(y),
    }
    if x.interval and x.interval[0] > 0:
        found |= {"x0": x.interval[0], "x1": x.interval[1]}
    if y.interval:
        found |= {"y0": y.interval[0], "y1": y.interval[1]}
    return found


def standing(row: Row, comparison: Comparison) -> str:
    """What is shown of a recipe's primary quality; ``baseline`` of that itself."""
    if row.is_baseline:
        return "baseline"
    found = row.changes.get(comparison.primary.name) if comparison.primary else None
    return found.verdict if found else "not settled"


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
    for each in data:
        each |= {"label": "", "align": "left", "dx": 0, "dy": 0}
    for index in sorted(
        range(len(data)), key=lambda index: (data[index]["verdict"] != "baseline", not data[index]["front"])
    )[:_LABELS]:
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
