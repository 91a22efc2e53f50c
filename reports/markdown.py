"""A comparison as Markdown, for a pull request: the answer, one table, and all else folded."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from bench.compare.compare import Comparison
from bench.compare.rows import Figure, Row
from bench.metrics.metric import Metric
from bench.metrics.units import counted
from reports import sentences, short, tuning, words
from reports.exchange.base import Foreign

_ROW = 1_200
"""About the bytes of a recipe, with all that the tables say of it."""


class Page:
    """All comparisons, one after the other; as many recipes of each as :data:`words.MOST` bytes have room for."""

    def __init__(self, comparisons: Sequence[Comparison], *, foreign: Sequence[Foreign] = ()) -> None:
        self._foreign = foreign
        self._room = words.MOST - 5_000
        self._waiting = len(comparisons)
        self._parts: list[str] = []
        self._left_out = 0

    def add(self, comparison: Comparison) -> str:
        """Nothing yet: what is left out is said at the end."""
        text = functools.partial(_comparison, whole=comparison)
        found = words.fitting(text, comparison, self._room // self._waiting, _ROW)
        self._waiting -= 1
        if found is None:
            self._left_out += 1
        else:
            self._room -= found[1]
            self._parts.append(found[0])
        return ""

    def end(self) -> str:
        """All of it."""
        if self._left_out:
            self._parts.append(f"{self._left_out:,} more comparisons are not here: {code(words.ALL)} has all.")
        parts = self._parts or ["Nothing is recorded here."]
        parts = [*parts, *_others(self._foreign)]
        return "\n\n".join([*parts, *_folded("How to read this", [plain(words.HOW_TO_READ)])]) + "\n"


def _comparison(comparison: Comparison, whole: Comparison) -> str:
    about = [
        words.place(comparison),
        words.seeds(comparison),
        comparison.started,
        f"methodbench {comparison.version}",
    ]
    parts = [f"# {plain(comparison.title)}", plain(" · ".join(part for part in about if part))]
    parts.append("\n".join(f"- {sentence(text)}" for text in sentences.headline(whole)))
    parts += [_short(comparison), plain(words.verdicts(comparison))]
    if references := words.references(comparison):
        parts.insert(-1, plain(references))
    if rates := tuning.said(whole):
        parts.insert(-1, plain(rates))
    if hidden := len(whole.rows) - len(comparison.rows):
        parts.append(f"{hidden:,} more recipes are not here: {code(words.ALL)} has all.")
    if warnings := sentences.warnings(whole):
        parts += _folded(f"⚠ {counted(len(warnings), 'warning')}", [f"- {sentence(warning)}" for warning in warnings])
    parts += _folded(
        "All figures, with intervals", [_table(comparison, comparison.metrics)] if comparison.metrics else []
    )
    trials = tuning.table(whole)
    parts += _folded("The trials of learning rates", [table(tuning.HEAD, trials)] if trials else [])
    parts += _chains(comparison)
    parts += _processes(comparison)
    parts += _folded("Without a full result", _without_result(comparison))
    parts += _evidence(comparison)
    formulas = [[metric.title, metric.formula] for metric in comparison.metrics]
    parts += _folded("What each figure means", [table(["metric", "formula"], formulas)] if formulas else [])
    settings = [list(setting) for setting in words.settings(comparison.environment)]
    data = words.data(comparison)
    said = [plain(data)] * bool(data) + [table(["setting", "value"], settings)] * bool(settings)
    parts += _folded("Data and environment", said)
    return "\n\n".join(parts)


def _folded(title: str, parts: Sequence[str]) -> list[str]:
    """`parts` behind a line that opens them; nothing where there are none."""
    return [f"<details><summary>{plain(title)}</summary>", *parts, "</details>"] if parts else []


def _short(comparison: Comparison) -> str:
    shown, primary = short.metrics(comparison), comparison.primary
    rows = []
    for row in comparison.rows:
        cells = [plain(text) for text in short.cells(row, shown, primary, lambda change: change.verdict)]
        if end := short.ending(row):
            cells = [f"{plain(end)}{f'; {cells[0]}' if row.succeeded and cells else ''}", *cells[1:]]
        cells = cells or [row.status]  # of a run that measured nothing
        rows.append([f"{code(row.name)}{' (baseline)' if row.is_baseline else ''}", *cells])
    return _table_of(["recipe", *(plain(metric.title) for metric in shown)] + ["result"] * (not shown), rows)


def _table(comparison: Comparison, metrics: Sequence[Metric]) -> str:
    head = ["recipe", "status", *(metric.title for metric in metrics)]
    rows = [
        [
            f"{row.name}{' (baseline)' if row.is_baseline else ''}",
            words.status(row),
            *(_figure(row, metric) for metric in metrics),
        ]
        for row in comparison.rows
    ]
    return table(head, rows)


def _figure(row: Row, metric: Metric) -> str:
    figure, change = row.figures.get(metric.name), row.changes.get(metric.name)
    if figure is None:
        return "–"
    mark = " ⚠" if figure.contended or (change and change.contended) else ""
    if change is None:
        return f"{figure}{mark}"
    return f"{figure}{mark}; {words.spelled(change)} {words.verdict(change)}"


def _chains(comparison: Comparison) -> list[str]:
    parts = [(row.name, stage, figures) for row in words.chains(comparison) for stage, figures in row.chain]
    return _parts("Quality after each stage", "stage", parts, words.chain_metrics(comparison))


def _processes(comparison: Comparison) -> list[str]:
    divided = words.divided(comparison)
    parts = [(row.name, str(number), figures) for row in divided for number, figures in enumerate(row.processes)]
    return _parts("What each process held and sent", "process", parts, words.process_metrics(comparison))


def _parts(
    title: str, what: str, parts: Sequence[tuple[str, str, Mapping[str, Figure]]], metrics: Sequence[Metric]
) -> list[str]:
    """A table of the figures of parts of recipes: `what` they are, and of each the recipe, its name and its figures."""
    rows = [
        [recipe, part, *(str(figures.get(metric.name, "–")) for metric in metrics)] for recipe, part, figures in parts
    ]
    return _folded(title, [table(["recipe", what, *(metric.title for metric in metrics)], rows)] if rows else [])


def _without_result(comparison: Comparison) -> list[str]:
    parts = []
    for row in words.without_result(comparison):
        parts.append(f"**{plain(row.name)}**: {words.status(row)}; recipe: {code(row.recipe)}")
        for ending, seeds in row.failures:
            stage = f" in {code(ending.stage)}" if ending.stage else ""
            reason = plain(words.reason(ending) or "no reason recorded")
            parts.append(f"- {words.of_seeds(seeds)}: **{ending.status}**{stage}: {reason}")
            if ending.log:
                parts.append(fenced(words.tail(ending.log)))
    return parts


def _others(foreign: Sequence[Foreign]) -> list[str]:
    """What others measured; nothing where nobody is asked."""
    rows = [
        [each.name, each.model, each.task, value.title, str(value), each.source]
        for each in foreign
        for value in each.values
    ]
    head = ["what", "model", "task", "figure", "value", "by"]
    return [f"## {words.BY_OTHERS}", words.OTHERS, table(head, rows)] if foreign else []


def _evidence(comparison: Comparison) -> list[str]:
    rows = [
        [row.name, proof.stage, proof.text, f"{proof.held} of {proof.of}", proof.seen]
        for row in comparison.rows
        for proof in row.evidence
    ]
    head = ["recipe", "stage", "claim", "held in", "seen"]
    return _folded("Evidence that each method was applied", [table(head, rows)] if rows else [])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which stay text."""
    return _table_of(list(map(plain, head)), [list(map(plain, row)) for row in rows])


def _table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in Markdown. A pipe needs its escape even in code there."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    cells.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plain(text: str) -> str:
    """Text that stays text: no HTML, no emphasis, no link, no heading, list or line break."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]~$]|:(?=//)|(?<=www)\.)", r"\\\1", " ".join(text.split()))
    # A sign or a number that would begin a heading, a list or a line, and the signs that would end a heading.
    text = re.sub(r"^(\d*)([-+#]|(?<=\d)[.)])(?=[-#]*(?: |$))", r"\1\\\2", text)
    return re.sub(r"(?<= )#(?=#*$)", r"\\#", text)


def sentence(text: str) -> str:
    """A sentence whose names stand in backticks."""
    parts = text.split("`")
    return "".join(_plain_inside(part) if n % 2 == 0 else code(part) for n, part in enumerate(parts))


def _plain_inside(text: str) -> str:
    # Spaces at the ends of a piece between two names stay.
    inner = plain(text)
    return f"{' ' if text[:1].isspace() else ''}{inner}{' ' if text[-1:].isspace() and inner else ''}"


def code(text: str) -> str:
    """A name or a command, in as many backticks as it takes."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{' '.join(text.split())}{pad}{ticks}"


def fenced(text: str, language: str = "text") -> str:
    """Lines that stay as they are, in as many backticks as it takes."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"
