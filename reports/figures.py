"""All figures of a comparison."""

from __future__ import annotations

from bench.compare.compare import Comparison
from reports.curves import losses
from reports.drawing import Drawing
from reports.scatter import scatter


def drawings(comparison: Comparison) -> list[Drawing]:
    """All figures of a comparison that have something to show."""
    primary = comparison.primary
    found = [scatter(comparison, metric, primary) for metric in comparison.costs] if primary else []
    return [drawing for drawing in [*found, losses(comparison)] if drawing is not None]


def runtime() -> str:
    """Vega, Vega-Lite and vega-embed as one script, with nothing to load from anywhere."""
    import altair
    import vl_convert

    major, minor, *_ = altair.SCHEMA_VERSION.removeprefix("v").split(".")
    # What vega-embed's own script from a CDN would have set.
    exposed = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
    return str(vl_convert.javascript_bundle(exposed, vl_version=f"{major}.{minor}"))
