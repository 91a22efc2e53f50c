"""One HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from bench.compare import Comparison, Row, headline
from bench.metrics import Metric
from reports import figures, words


def render(comparisons: Sequence[Comparison]) -> str:
    """The page."""
    return "".join(pieces(comparisons))


def pieces(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The page bit by bit: whole, that of ten thousand records would take more memory than the records."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sentence"] = sentence
    pages = [_page(number, comparison) for number, comparison in enumerate(comparisons)]
    template = environment.get_template("report.html.j2")
    return template.generate(
        title=comparisons[0].title if comparisons else "methodbench",
        pages=pages,
        words=words,
        # Made when the page comes to them, so that those of one comparison at a time take memory.
        drawings=figures.drawings,
        embedded=embedded,
        # The runtime has no `</script` in it (a test looks), so it may stand in the page as it is.
        runtime=Markup(figures.runtime()) if pages else "",
    )


def _page(number: int, comparison: Comparison) -> dict[str, Any]:
    sentences = headline(comparison)
    return {
        "id": f"c{number}",
        "it": comparison,
        "answer": sentences[0],
        "more": sentences[1:],
        "when": _day(comparison.started),
        "settings": words.settings(comparison.environment),
        "without_result": words.without_result(comparison),
        "sort_value": _sort_value,
    }


def embedded(value: Mapping[str, Any]) -> Markup:
    """JSON that may stand inside a script element, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # `<` opens `</script>` and `<!--`; inside JSON strings, where alone it occurs, the escape means the same.
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def sentence(text: str) -> Markup:
    """A sentence whose names stand in backticks."""
    parts = (escape(part) for part in text.split("`"))
    return Markup("").join(
        part if n % 2 == 0 else Markup("<b class=name>{}</b>").format(part) for n, part in enumerate(parts)
    )


def _sort_value(row: Row, metric: Metric) -> str:
    figure = row.figures.get(metric.name)
    return "" if figure is None else repr(figure.value)


def _day(started: str) -> str:
    try:
        return f"{datetime.datetime.fromisoformat(started):%d %B %Y, %H:%M}".lstrip("0")
    except ValueError:
        return started
