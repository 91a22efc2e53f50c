"""What all figures share.

Made with altair; one definition is interactive in the HTML report and static where scripts are off, on paper and as a file.
Colours are Okabe and Ito's, told apart with any colour vision, and never say anything alone; text takes the page's colour,
light or dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.rows import Verdict

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

VERDICTS: Mapping[Verdict | str, str] = {
    "baseline": "#D55E00",
    "better": "#0072B2",
    "same": "#009E73",
    "worse": "#B0413E",
    "not settled": "#7b8590",
}
"""The colour of a recipe, by what is shown of its quality."""

WIDTH, HEIGHT = 460, 290
"""The plot for which labels are placed; on a page it is as wide as there is room."""

PINNED = "pinned"
"""A signal of every figure that shows recipes: the names of those that a reader has pinned on the page."""


@dataclass(frozen=True)
class Drawing:
    """A figure: what kind it is, its heading, a sentence on how to read it, and the Vega-Lite specification."""

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]

    def svg(self) -> str:
        """The figure as an element that stands in a page and takes its colours."""
        import vl_convert

        # Narrower than the page, so that text is not small where it is made as wide as there is room.
        return str(vl_convert.vegalite_to_svg(json.dumps({**self.spec, "width": WIDTH})))


def spec_of(chart: Any, **datasets: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of `chart`, an altair chart, with the data that it names."""
    # Validation against the schema takes most of the time, and the tests compile every kind of chart.
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("$schema", None)  # an address, though nothing reads it
    # Put in here and named above: altair would copy the data several times.
    return {**spec, "datasets": datasets, "config": _CONFIG}


def short(value: float) -> float:
    """`value` in as many digits as a plot can show."""
    return float(f"{value:.6g}")


def hue(alt: Any, names: Sequence[str]) -> Any:
    """The colour of each of `names`, with a legend below."""
    return alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(names), range=[PALETTE[n % len(PALETTE)] for n in range(len(names))]),
        legend=alt.Legend(title=None, orient="bottom", columns=3, labelLimit=150),
    )


def pinned(alt: Any, *, pinned: Any, other: Any) -> Any:
    """An encoding's value for recipes that are pinned, and for the rest. `alt` is altair."""
    return alt.condition(f"indexof({PINNED}, datum.name) >= 0", alt.value(pinned), alt.value(other))


def pins(alt: Any) -> Any:
    """The signal of a chart that has :func:`pinned` values."""
    return alt.param(name=PINNED, value=[])


_CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "aria": False,  # the figure as a whole has its text, and the table has the numbers
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelOpacity": 0.8,
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
    "legend": {"labelColor": "currentColor", "labelOpacity": 0.9, "labelFontSize": 12, "titleColor": "currentColor"},
    "title": {"color": "currentColor", "fontWeight": 500},
}
