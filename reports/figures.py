"""Figures: quality against each cost, with its Pareto front, and the loss curves.

Made with altair; one definition is interactive in the HTML report and static as SVG. Colours are Okabe and
Ito's, told apart with any colour vision, and never say anything alone; text takes the page's colour, light
or dark.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare.compare import Comparison
from bench.compare.front import front
from bench.compare.rows import Figure, Row
from bench.metrics.metrics import Metric, show

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_DASHES = ([1, 0], [6, 3], [2, 2])
_BASELINE, _FRONT, _OTHER = "baseline", "on the front", "behind the front"
_COLOURS = {_BASELINE: "#D55E00", _FRONT: "#1f83c4", _OTHER: "#8a8f98"}

_WIDTH, _HEIGHT = 460, 290  # the plot for which labels are placed; on a page it is as wide as there is room
_NARROW = 400  # below it, only the labels of the front and the baseline stay
_CURVES = 20  # more than this nobody can read in one figure
_STEPS = 60  # points of a loss curve, each the mean of its share of the steps
_LABELS = 60  # placing labels is quadratic, and more would be noise


@dataclass(frozen=True)
class Drawing:
    """A figure: its heading, a sentence on how to read it, and the Vega-Lite specification."""

    title: str
    caption: str
    spec: Mapping[str, Any]


def drawings(comparison: Comparison) -> list[Drawing]:
    """All figures of a comparison that have something to show."""
    primary = comparison.primary
    found = [scatter(comparison, metric, primary) for metric in comparison.costs] if primary else []
    return [drawing for drawing in [*found, losses(comparison)] if drawing is not None]


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
    across = _axis([row.figures[cost.name] for row in rows], log=True)
    up = _axis([row.figures[quality.name] for row in rows], log=False)
    best = set(on_front)
    data = [_point(row, cost, quality, index in best) for index, row in enumerate(rows)]
    _place_labels(data, [points[index] for index in on_front], across, up)

    x = alt.X("x:Q", scale=across.scale(alt), axis=across.axis(alt), title=_titled(cost))
    y = alt.Y("y:Q", scale=up.scale(alt), axis=up.axis(alt), title=_titled(quality))
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
    chart = alt.layer(*layers).properties(width="container", height=_HEIGHT)
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
        _spec(chart, recipes=data, front=path),
    )


def losses(comparison: Comparison) -> Drawing | None:
    """The training loss of each recipe by step: the mean over seeds, and each seed faintly. None where none
    trained.

    Recipes that share their training share a curve.
    """
    import altair as alt

    shared: dict[tuple[str, ...], list[Row]] = {}
    for row in comparison.rows:
        if row.losses:
            shared.setdefault(row.training, []).append(row)
    groups = list(shared.values())[:_CURVES]
    names = [_curve_name(group) for group in groups]
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
    if not means:
        return None
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
    layers = [faint, mean] if len(comparison.seeds) > 1 else [mean]
    chart = alt.layer(*layers).add_params(selection).properties(width="container", height=_HEIGHT)
    left_out = len(shared) - len(groups)
    return Drawing(
        "Training loss",
        "Each point is the mean of a few steps"
        + (", the thick line the mean over seeds" if len(comparison.seeds) > 1 else "")
        + ". Choose a name in the legend to see its curve alone. A low training loss is not yet quality."
        + (f" {left_out} more curves are left out." if left_out else ""),
        _spec(chart, means=means, seeds=seeds),
    )


class Svg:
    """Every figure of the comparisons that it is given as ``figure-<number>.svg`` in a folder; ``written`` says where."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def add(self, comparison: Comparison) -> str:
        """No text."""
        import vl_convert

        for drawing in drawings(comparison):
            spec = {**drawing.spec, "width": _WIDTH, "background": "white", "title": drawing.title}
            path = self._folder / f"figure-{len(self.written) + 1}.svg"
            path.write_text(vl_convert.vegalite_to_svg(json.dumps(spec)), encoding="utf-8")
            self.written.append(path)
        return ""

    def end(self) -> str:
        """No text."""
        return ""


def runtime() -> str:
    """Vega, Vega-Lite and vega-embed as one script, with nothing to load from anywhere."""
    import altair
    import vl_convert

    major, minor, *_ = altair.SCHEMA_VERSION.removeprefix("v").split(".")
    # What vega-embed's own script from a CDN would have set.
    exposed = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
    return str(vl_convert.javascript_bundle(exposed, vl_version=f"{major}.{minor}"))


# -- axes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """A domain and its ticks, chosen here so that labels can be placed and ticks carry :func:`show`'s
    units."""

    low: float
    high: float
    log: bool
    unit: str

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def scale(self, alt: Any) -> Any:
        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False, zero=False)

    def axis(self, alt: Any) -> Any:
        ticks = _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)
        labels = json.dumps([_tick_label(tick, self.unit) for tick in ticks])
        return alt.Axis(
            values=ticks, labelExpr=f"{labels}[indexof({json.dumps(ticks)}, datum.value)]", labelOverlap=True
        )


def _axis(figures: Sequence[Figure], *, log: bool) -> _Axis:
    ends = [end for figure in figures for end in figure.interval or ()]
    values = [figure.value for figure in figures]
    smallest, largest = min(values), max(values)
    # An interval of two seeds can be wider than all that is compared; it may leave the picture, the
    # points may not.
    room = largest - smallest or abs(largest) or 1.0
    low = max(min([smallest, *ends]), smallest - room / 2)
    high = min(max([largest, *ends]), largest + room / 2)
    if log and smallest > 0 and largest / smallest > 5:
        low = max(low, smallest / 1.5)
        margin = (high / low) ** 0.08
        return _Axis(low / margin, high * margin, True, figures[0].metric.unit)
    margin = (high - low or abs(high) or 1.0) * 0.08
    bottom = low - margin
    return _Axis(max(bottom, 0.0) if low >= 0 else bottom, high + margin, False, figures[0].metric.unit)


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _tick_label(value: float, unit: str) -> str:
    number, _, name = show(value, unit).partition(" ")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    # The axis title has the unit where it does not scale with the value.
    return number if name in ("", unit) and unit not in ("s", "B") else f"{number} {name}"


def _titled(metric: Metric) -> str:
    scaled = metric.unit in ("s", "B", "FLOP", "count", "fraction")
    return metric.title if scaled else f"{metric.title} ({metric.unit})"


# -- points ------------------------------------------------------------------------------------------------


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


def _place_labels(data: list[dict[str, Any]], corners: Sequence[tuple[float, float]], across: _Axis, up: _Axis) -> None:
    """Put each name where it covers no point and no other name, the front's first; leave it out where it
    cannot.

    Where there is a choice, it does not lie on the front's line through `corners` either.
    """

    def pixel(x: float, y: float) -> tuple[float, float]:
        return across.place(x) * _WIDTH, (1 - up.place(y)) * _HEIGHT

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
            inside = box[0] >= 0 and box[2] <= _WIDTH + 8 and box[1] >= -6 and box[3] <= _HEIGHT
            if inside and not any(_overlap(box, other) for n, other in enumerate(taken) if n != index):
                free.append((sum(_overlap(box, segment) for segment in line), len(free), box, align, dx, dy))
        if free:
            _, _, box, align, dx, dy = min(free)
            taken.append(box)
            data[index] |= {"label": text, "align": align, "dx": dx, "dy": dy}


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# -- curves ------------------------------------------------------------------------------------------------


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


def _spec(chart: Any, **datasets: list[dict[str, Any]]) -> dict[str, Any]:
    # Validation against the schema takes most of the time, and the tests compile every kind of chart.
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("$schema", None)  # an address, though nothing reads it
    # Put in here and named above: altair would copy the data several times.
    return {**spec, "datasets": datasets, "config": _CONFIG}


_CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelOpacity": 0.75,
        "titleOpacity": 0.9,
        "titleFontWeight": 500,
        "titlePadding": 8,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "gridColor": "currentColor",
        "gridOpacity": 0.1,
    },
    "legend": {"labelColor": "currentColor", "labelOpacity": 0.9, "labelFontSize": 12},
    "title": {"color": "currentColor", "fontWeight": 500},
}
