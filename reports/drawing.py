"""What all figures share.

Made with altair; one definition is interactive in the HTML report and static as SVG. Colours are Okabe and
Ito's, told apart with any colour vision, and never say anything alone; text takes the page's colour, light
or dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

WIDTH, HEIGHT = 460, 290
"""The plot for which labels are placed; on a page it is as wide as there is room."""


@dataclass(frozen=True)
class Drawing:
    """A figure: its heading, a sentence on how to read it, and the Vega-Lite specification."""

    title: str
    caption: str
    spec: Mapping[str, Any]


def spec_of(chart: Any, **datasets: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of `chart`, an altair chart, with the data that it names."""
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
