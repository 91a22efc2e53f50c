"""All figures of a comparison, on a page and as files."""

from __future__ import annotations

import json
from pathlib import Path

from bench.compare.compare import Comparison
from reports import costs, stages
from reports.curves import losses
from reports.drawing import WIDTH, Drawing
from reports.forest import forest
from reports.tradeoff import tradeoff


def drawings(comparison: Comparison) -> list[Drawing]:
    """All figures of a comparison that have something to show."""
    primary = comparison.primary
    found = [
        forest(comparison),
        *([tradeoff(comparison, metric, primary) for metric in comparison.costs] if primary else []),
        costs.memory(comparison),
        costs.time(comparison),
        losses(comparison),
        stages.kept(comparison),
        stages.slopes(comparison),
    ]
    return [drawing for drawing in found if drawing is not None]


class Svg:
    """Every figure of the comparisons that it is given as ``figure-<number>.svg`` in a folder; ``written`` says where."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def add(self, comparison: Comparison) -> str:
        """No text."""
        import vl_convert

        for drawing in drawings(comparison):
            spec = {**drawing.spec, "width": WIDTH, "background": "white", "title": drawing.title}
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
    exposed = "window.vegaEmbed = vegaEmbed;"
    return str(vl_convert.javascript_bundle(exposed, vl_version=f"{major}.{minor}"))
