"""All figures of a comparison."""

from __future__ import annotations

from bench.compare.compare import Comparison
from reports import costs, stages, tuning
from reports.curves import losses
from reports.drawing import Drawing
from reports.forest import forest
from reports.tradeoff import tradeoff


def drawings(comparison: Comparison, *, every_cost: bool = True) -> list[Drawing]:
    """All figures of a comparison that have something to show. Quality is drawn against each cost, or the first alone."""
    primary = comparison.primary
    costing = comparison.costs if primary else []
    against_costs = (drawn for metric in costing if primary and (drawn := tradeoff(comparison, metric, primary)))
    found = [
        forest(comparison),
        *(against_costs if every_cost else [next(against_costs, None)]),
        costs.memory(comparison),
        costs.time(comparison),
        losses(comparison),
        tuning.validated(comparison),
        tuning.tuned(comparison),
        stages.kept(comparison),
        stages.slopes(comparison),
    ]
    return [drawing for drawing in found if drawing is not None]


def runtime() -> str:
    """Vega, Vega-Lite and vega-embed as one script, with nothing to load from anywhere."""
    import altair
    import vl_convert

    major, minor, *_ = altair.SCHEMA_VERSION.removeprefix("v").split(".")
    # What vega-embed's own script from a CDN would have set.
    exposed = "window.vegaEmbed = vegaEmbed;"
    return str(vl_convert.javascript_bundle(exposed, vl_version=f"{major}.{minor}"))
