"""Templates, and what stands in them: text that is escaped, JSON, scripts and figures."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from reports.drawing import Drawing


def rendered(template: str, **given: Any) -> str:
    """The text of `template` with what is `given`."""
    return str(_templates().get_template(template).render(given))


@functools.cache
def _templates() -> Any:
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["sentence"] = sentence
    return found


def source(file: str) -> Markup:
    """The text of one of our own files, which stands in a page as it is."""
    return Markup((resources.files("reports") / "templates" / file).read_text("utf-8"))


def sentence(text: str) -> Markup:
    """A sentence whose names stand in backticks."""
    parts = (escape(part) for part in text.split("`"))
    return Markup("").join(
        part if n % 2 == 0 else Markup("<b class=name>{}</b>").format(part) for n, part in enumerate(parts)
    )


def embedded(value: Mapping[str, Any]) -> Markup:
    """JSON that may stand inside a script element, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # `<` opens `</script>` and `<!--`; inside JSON strings, where alone it occurs, the escape means the same.
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def packed(script: str) -> str:
    """`script`, compressed, as text that may stand in a page: a third of its size."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def static(drawing: Drawing, name: str) -> Markup:
    """A figure as an element of the page; `name` keeps its ids apart from other figures'."""
    text = escape(f"{drawing.title}. {drawing.caption}")
    # What Vega adds for each mark, and hundredths of a pixel, would double the page.
    svg = re.sub(r' (?:aria-[a-z]+|role|class|xmlns(?::xlink)?|version)="[^"]*"', "", drawing.svg())
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    svg = re.sub(r"(?<=[\d, ]|[MLHVAC(])(-?\d+\.\d)\d+(?=[^<>]*>)", r"\1", svg)
    return Markup(re.sub(r'(?<=id="|rl\(#)(clip|gradient)', rf"{name}-\1", svg))
