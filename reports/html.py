"""One HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports import figures, sentences, words

_ROW = 9_000
"""About the bytes of a recipe, with all that the page says of it."""


class Page:
    """The page, of at most :data:`words.MOST` bytes: of each comparison as many recipes, the best first, as there is room for."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        import jinja2

        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("reports"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters["sentence"] = sentence
        self._titles = words.titles(comparisons)
        self._number = len(comparisons)
        # The runtime has no `</script` in it (a test looks), so it may stand in the page as it is.
        self._runtime = Markup(figures.runtime()) if comparisons else Markup("")
        self._room = words.MOST - len(self._runtime.encode()) - 60_000  # for the style and all else around
        self._sections: list[dict[str, Any]] = []
        self._left_out = 0

    def add(self, comparison: Comparison) -> str:
        """Nothing yet: the links at the top are to all sections."""
        number = len(self._sections) + self._left_out
        about = {"id": f"c{number}", "title": comparison.title, "place": words.place(comparison)}
        beside = 200 + len(str(about).encode(errors="replace"))  # its line among the links at the top
        template = self._templates.get_template("section.html.j2")

        def text(shown: Comparison) -> str:
            page = _page(about["id"], shown, comparison)
            several, titled = self._number > 1, len(self._titles) > 1
            return template.render(page=page, words=words, embedded=embedded, several=several, titled=titled)

        found = words.fitting(text, comparison, self._room // (self._number - number) - beside, _ROW)
        if found is None:
            self._left_out += 1
        else:
            self._room -= found[1] + beside
            self._sections.append({**about, "section": Markup(found[0])})
        return ""

    def end(self) -> str:
        """All of it."""
        return self._templates.get_template("report.html.j2").render(
            title=self._titles[0] if self._titles else "methodbench",
            titles=self._titles,
            pages=self._sections,
            left_out=self._left_out,
            words=words,
            runtime=self._runtime,
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
