"""One HTML file that needs nothing else: no network, no server, no other file.

The page is whole without its script, with static figures. The script adds what a reader chooses: another baseline, other
columns and axes, limits, pinned recipes. Figures are Vega-Lite's, whose runtime is packed into the page.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from bench.compare import answer
from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric
from reports import cards, curves, figures, model, sentences, toml, tuning, words
from reports.exchange.base import Foreign
from reports.rendering import embedded, packed, rendered, source, static

_ROW = 10_000
"""About the bytes of a recipe, with all that the page says of it."""


class Page:
    """The page, of at most :data:`words.MOST` bytes: of each comparison as many recipes, the best first, as there is room for.

    A `static` one is without Vega, so that figures stay as they are.
    """

    def __init__(
        self, comparisons: Sequence[Comparison], *, static: bool = False, foreign: Sequence[Foreign] = ()
    ) -> None:
        self._foreign = foreign
        self._titles = words.titles(comparisons)
        self._number = len(comparisons)
        self._runtime = packed(figures.runtime()) if comparisons and not static else ""
        self._room = words.MOST - len(self._runtime) - 90_000  # for style, script and all else around
        self._sections: list[dict[str, Any]] = []
        self._left_out = 0

    def add(self, comparison: Comparison) -> str:
        """Nothing yet: the links at the top are to all sections."""
        number = len(self._sections) + self._left_out
        about = {"id": f"c{number}", "title": comparison.title, "place": words.place(comparison)}
        beside = 200 + len(str(about).encode(errors="replace"))  # its line among the links at the top

        def text(shown: Comparison) -> str:
            page = _page(about["id"], shown, comparison)
            several, titled = self._number > 1, len(self._titles) > 1
            return rendered(
                "section.html.j2", page=page, words=words, embedded=embedded, several=several, titled=titled
            )

        found = words.fitting(text, comparison, self._room // (self._number - number) - beside, _ROW)
        if found is None:
            self._left_out += 1
        else:
            self._room -= found[1] + beside
            self._sections.append({**about, "section": Markup(found[0])})
        return ""

    def end(self) -> str:
        """All of it."""
        return rendered(
            "report.html.j2",
            title=self._titles[0] if self._titles else "methodbench",
            titles=self._titles,
            pages=self._sections,
            foreign=self._foreign,
            left_out=self._left_out,
            words=words,
            runtime=self._runtime,
            style=source("style.css"),
            script=source("page.js"),
        )


def _page(id_: str, shown: Comparison, whole: Comparison) -> dict[str, Any]:
    complete = len(whole.rows) == len(shown.rows)
    # A figure of a part of the recipes would hide the rest.
    drawings = {each.name: each for each in figures.drawings(shown, every_cost=False)} if complete else {}
    views = {name: shown.against(name) for name in model.others(shown)} if complete else {}
    answers = {whole.baseline: _answer(whole), **{name: _answer(view) for name, view in views.items()}}
    chains = {id(row) for row in words.chains(shown)}
    ok = [row.name for row in shown.rows if row.figures]
    costs = whole.costs
    data = model.model(shown, views, answers)
    return {
        "id": id_,
        "it": shown,
        "facts": words.facts(whole, _day(whole.started)),
        "proved": words.proved(whole),
        "claims": words.claims(whole),
        "suite": (suite := toml.written(whole.suite)),
        "file": f"{re.sub('[^a-z0-9]+', '-', whole.title.lower()).strip('-')[:60] or 'suite'}.toml" if suite else "",
        "hidden": len(whole.rows) - len(shown.rows),
        "answer": answers[whole.baseline],
        "baselines": list(answers),
        "warnings": sentences.warnings(whole),
        "settings": words.settings(whole.environment),
        "without_result": words.without_result(shown),
        "drawings": drawings,
        "static": {name: static(drawing, f"{id_}-{name}") for name, drawing in drawings.items()},
        "across": costs[0] if costs else whole.primary,
        "limits": [each for each in data["metrics"] if "limit" in each],
        "columns": model.columns(shown),
        "share": _share(shown),
        "curves": curves.ACROSS.items(),
        "names": ok,
        "pair": (shown.baseline if shown.baseline in ok else ok[0], next(n for n in ok if n != shown.baseline))
        if len(ok) > 1
        else (),
        "chains": {place for place, row in enumerate(shown.rows) if id(row) in chains},
        "chain_metrics": words.chain_metrics(shown),
        "process_metrics": words.process_metrics(shown),
        "citation": words.citation(whole),
        "rates": tuning.said(whole),
        "tuning_head": tuning.HEAD,
        "tuning": tuning.table(whole),
        "data": data,
    }


def _answer(comparison: Comparison) -> Markup:
    facts = list(answer.answer(comparison))
    first, *more = sentences.beside_cards(facts)
    return Markup(rendered("answer.html.j2", answer=first, more=more, cards=cards.cards(comparison, facts)))


def _share(comparison: Comparison) -> Any:
    """What part of the largest value of its column a cost is, for the bar in its cell."""
    most: dict[str, float] = {}
    for row in comparison.rows:
        for name, figure in row.figures.items():
            most[name] = max(most.get(name, 0.0), figure.value)

    def share(row: Row, metric: Metric) -> str:
        if metric.family == "quality" or not most[metric.name] > 0:
            return "0"
        return f"{max(0.0, row.figures[metric.name].value / most[metric.name]):.3f}"

    return share


def _day(started: str) -> str:
    try:
        return f"{datetime.datetime.fromisoformat(started):%d %B %Y, %H:%M}".lstrip("0")
    except ValueError:
        return started
