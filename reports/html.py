"""One HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metrics import Metric
from reports import figures, sentences, words

_ROW = 9_000
"""About the bytes of a recipe, with all that the page says of it."""


def render(comparisons: Sequence[Comparison]) -> str:
    """The page, of at most :data:`words.MOST` bytes: of each comparison as many recipes, the best first, as there is room for."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sentence"] = sentence
    section = environment.get_template("section.html.j2")
    titles = words.titles(comparisons)
    several, titled = len(comparisons) > 1, len(titles) > 1
    pages: list[dict[str, Any]] = []
    # The runtime has no `</script` in it (a test looks), so it may stand in the page as it is.
    runtime = Markup(figures.runtime()) if comparisons else Markup("")
    room = words.MOST - len(runtime.encode()) - 60_000  # for the style and all else around
    left_out = 0
    for number, comparison in enumerate(comparisons):
        page = {"id": f"c{number}", "title": comparison.title, "place": words.place(comparison)}
        beside = 200 + len(str(page).encode(errors="replace"))  # its line among the links at the top

        def text(shown: Comparison, whole: Comparison = comparison, id_: str = page["id"]) -> str:
            about = _page(id_, shown, whole)
            return str(section.render(page=about, words=words, embedded=embedded, several=several, titled=titled))

        found = words.fitting(text, comparison, room // (len(comparisons) - number) - beside, _ROW)
        if found is None:
            left_out += 1
        else:
            room -= found[1] + beside
            pages.append({**page, "section": Markup(found[0])})
    return environment.get_template("report.html.j2").render(
        title=titles[0] if titles else "methodbench",
        titles=titles,
        pages=pages,
        left_out=left_out,
        words=words,
        runtime=runtime,
    )


def _page(id_: str, shown: Comparison, whole: Comparison) -> dict[str, Any]:
    answer, *more = sentences.headline(whole)
    chains = {id(row) for row in words.chains(shown)}
    return {
        "id": id_,
        "it": shown,
        "recipes": len(whole.rows),
        "hidden": len(whole.rows) - len(shown.rows),
        "answer": answer,
        "more": more,
        "warnings": sentences.warnings(whole),
        "when": _day(whole.started),
        "settings": words.settings(whole.environment),
        "without_result": words.without_result(shown),
        # A figure of a part of the recipes would hide the rest.
        "drawings": figures.drawings(shown) if len(shown.rows) == len(whole.rows) else [],
        "chains": {place for place, row in enumerate(shown.rows) if id(row) in chains},
        "chain_metrics": words.chain_metrics(shown),
        "process_metrics": words.process_metrics(shown),
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
