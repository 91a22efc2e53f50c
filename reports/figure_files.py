"""Figures as files for a paper: as wide as a column, in type of 7 and 8 points, with their font inside."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bench.compare.compare import Comparison
from bench.machine import disk
from reports.drawing import WIDTH
from reports.figures import drawings

FORMATS = ("svg", "pdf", "png")

WIDTHS = (3.3, 6.9)
"""Of one column of a paper and of two, in inches."""

_POINTS = 72  # of an inch; what Vega calls a pixel is a point here
_DPI = 300
_FONT = "Source Sans Pro"


class Files:
    """Every figure of the comparisons that it is given, as a file in `folder` that is called as the figure is.

    ``written`` says where. `inches` is their width, one of :data:`WIDTHS`.
    """

    def __init__(self, comparisons: Sequence[Comparison], folder: Path, format: str, inches: float) -> None:
        self._several = len(comparisons) > 1
        self._folder = folder
        self._format = format
        self._inches = inches
        self.written: list[Path] = []

    def add(self, comparison: Comparison) -> str:
        """No text."""
        for drawing in drawings(comparison):
            about = [drawing.title, *([comparison.title, comparison.model, comparison.task] if self._several else [])]
            with disk.atomic(self._path("-".join(map(_slug, about)))) as half:
                half.write_bytes(drawn(drawing.spec, self._format, self._inches))
        return ""

    def end(self) -> str:
        """No text."""
        return ""

    def _path(self, name: str) -> Path:
        """A file for the figure `name` that is no other figure's."""
        names = [f"figure-{name}", *(f"figure-{name}-{number}" for number in range(2, len(self.written) + 3))]
        taken = {path.stem for path in self.written}
        self.written.append(self._folder / f"{next(each for each in names if each not in taken)}.{self._format}")
        return self.written[-1]


def drawn(spec: Mapping[str, Any], format: str, inches: float) -> bytes:
    """The Vega-Lite specification `spec` as a file of `format`, `inches` wide. A PNG has 300 dots an inch.

    A figure of several parts is as large as its parts are, and is made smaller as a whole.
    """
    import vl_convert

    _register_font()
    svg = vl_convert.vegalite_to_svg(json.dumps(_on_paper(spec, inches)))
    wide, high = (float(each) for each in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    points = inches * _POINTS

    def sized(unit: Literal["pt", "in"]) -> str:
        scale = points / wide / (1 if unit == "pt" else _POINTS)
        shown = "" if unit == "pt" else unit
        size = f'width="{wide * scale:g}{shown}" height="{high * scale:g}{shown}"'
        return re.sub(r'width="[\d.]+" height="[\d.]+"', size, svg, count=1)

    if format == "pdf":
        return bytes(vl_convert.svg_to_pdf(sized("pt")))
    if format == "png":
        return bytes(vl_convert.svg_to_png(sized("pt"), ppi=_DPI))
    return _with_font(sized("in")).encode()


def _on_paper(spec: Mapping[str, Any], inches: float) -> dict[str, Any]:
    points = inches * _POINTS
    found = {**_small(spec, points / WIDTH), "datasets": spec.get("datasets", {}), "background": "white"}
    found["config"] = {**found.get("config", {}), "font": _FONT}
    if "layer" in found or "mark" in found:
        found |= {"width": points, "autosize": {"type": "fit-x", "contains": "padding"}, "padding": 2}
        if isinstance(found.get("height"), int | float):
            found["height"] = max(_POINTS * 1.9, found["height"] * 0.8 * points / WIDTH)
    return found


def _small(value: Any, scale: float) -> Any:
    """`value` of a specification with the sizes of a paper: of type in points, and of points in the figure's `scale`."""
    if isinstance(value, Mapping):
        return {key: _small_value(key, inner, scale) for key, inner in value.items() if key != "datasets"}
    return [_small(inner, scale) for inner in value] if isinstance(value, list) else value


def _small_value(key: str, value: Any, scale: float) -> Any:
    if key.endswith("FontWeight"):
        return "normal"
    if key.lower().endswith("fontsize"):
        return 7 if key == "fontSize" else 8
    if key == "mark" and isinstance(value, Mapping) and isinstance(value.get("size"), int | float):
        value = {**value, "size": value["size"] * min(1.0, scale) ** 2}
    return _small(value, scale)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("×", "x"))[:60].strip("-") or "x"


@functools.cache
def _register_font() -> None:
    import font_source_sans_pro
    import vl_convert

    vl_convert.register_font_directory(str(Path(font_source_sans_pro.SourceSansPro).parent))


def _with_font(svg: str) -> str:
    """`svg` with the signs of the font that it uses: what shows it may have no such font."""
    import font_source_sans_pro
    from fontTools import subset, ttLib

    options = subset.Options(flavor="woff", layout_features=["kern"], notdef_outline=True)
    with warnings.catch_warnings(action="ignore"), ttLib.TTFont(font_source_sans_pro.SourceSansPro) as font:
        chosen = subset.Subsetter(options)
        chosen.populate(text=svg)
        chosen.subset(font)
        file = io.BytesIO()
        subset.save_font(font, file, options)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    style = f"<style>@font-face{{font-family:'{_FONT}';src:url(data:font/woff;base64,{data}) format('woff')}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, svg, count=1)
