"""From records to an answer: each recipe beside the baseline, with intervals and words.

A difference inside its interval is a tie and is called so; a recipe that gave no result stays in the table
with its reason. Quality compares by differences, everything else by ratios on the log scale, both paired by
seed.
"""

from __future__ import annotations

import functools
import math
import os
import warnings
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from bench.compare import stats
from bench.compare.stats import Interval
from bench.metrics import registry
from bench.metrics.metric import Metric, Record, paired
from bench.metrics.units import show
from bench.record.record import read, sketches

if TYPE_CHECKING:
    from bench.record.record import Records

Verdict = Literal["better", "worse", "tie", "unclear"]
"""``tie``: the interval holds "no difference". ``unclear``: there is no interval to tell by."""

Direction = Literal["higher", "lower"]

_STATUSES = ("ok", "not run", "refused", "timeout", "oom", "diverged", "failed", "invalid")
"""From the best to the worst: a row's status is its worst cell's."""


_LARGEST = 1e100
"""No figure is larger, and its square still is a number. What is, as a perplexity can be, is not one that can be compared."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one recipe: the mean over seeds, its t interval (None for one seed) and each seed's
    value.

    ``contended`` says why a timing in it is not to be trusted; None where it is.
    """

    metric: Metric
    value: float
    interval: Interval | None
    by_seed: Mapping[int, float]
    contended: str | None = None

    def __str__(self) -> str:
        half = (self.interval[1] - self.interval[0]) / 2 if self.interval else 0.0
        text, margin = show(self.value, self.metric.unit), show(half, self.metric.unit)
        if half <= 5e-4 * abs(self.value):
            return text
        number, _, unit = text.partition(" ")
        # A unit that both have is said once: 335 ± 8.60 MB.
        return f"{number} ± {margin}" if unit and margin.endswith(f" {unit}") else f"{text} ± {margin}"


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one recipe against another's: a difference for quality, a ratio for the rest.

    ``covers`` says what the interval holds the noise of: ``seeds``, ``items`` (the choice of test items),
    ``seeds and items``, ``nothing`` where there is no interval, ``exact`` where there is no noise.
    """

    metric: Metric
    value: float
    interval: Interval | None
    covers: Literal["seeds", "items", "seeds and items", "nothing", "exact"]
    contended: str | None = None

    @property
    def kind(self) -> Literal["difference", "ratio"]:
        """How the two are compared."""
        return _kind(self.metric)

    @property
    def verdict(self) -> Verdict:
        """What the interval says, in the metric's direction."""
        if self.interval is None:
            return "unclear"
        none = 0.0 if self.kind == "difference" else 1.0
        low, high = self.interval
        if low - 1e-12 <= none <= high + 1e-12:
            return "tie"
        ratio = math.exp(self.value) if self.kind == "difference" else self.value
        return "better" if self.metric.improvement(ratio) else "worse"

    @property
    def range(self) -> str:
        """The interval as text, such as ``0.39 to 0.44``; empty where there is none or it has no width."""
        if self.interval is None or _flat(self.interval, self.value):
            return ""
        low, high = (self._text(end, fine=True) for end in self.interval)
        return f"{low} to {high}"

    def __str__(self) -> str:
        return self._text(self.value) + ("" if self.kind == "difference" else "×")

    def _text(self, value: float, *, fine: bool = False) -> str:
        if self.kind == "ratio":
            if fine and 0 < abs(value - 1) < 0.005:
                return f"{value:.4f}"  # else an end near 1 does not show on which side it lies
            return f"{value:.2f}" if 0.095 <= value < 99.5 else f"{value:.3g}" if value < 1e6 else f"{value:.1e}"
        sign = "+" if value > 0 else "−" if value < 0 else "±"
        return sign + show(abs(value), self.metric.unit)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one recipe ended for one seed: the stage that went wrong and why, or ``ok``."""

    seed: int
    status: str
    stage: str = ""
    reason: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim of a method over all seeds: held in ``held`` of ``of``; ``seen`` in the first that failed,
    or ran."""

    stage: str
    method: str
    text: str
    seen: str
    held: int
    of: int


@dataclass(frozen=True)
class Row:
    """One recipe of a comparison.

    ``training`` holds the ids of the records that trained: rows with the same ones share their loss curves. ``chain``
    has each stage with the quality figures of the model after it; ``processes`` the figures of each of several that
    trained together in the last training. ``absent`` says why a metric has no figure for some seed, by its name;
    ``unknown`` names figures that are recorded and that no metric is registered for. ``cards`` are the GPUs of each
    seed's last stage, by their ids.
    """

    name: str
    recipe: str
    is_baseline: bool
    endings: tuple[Ending, ...]
    figures: Mapping[str, Figure]
    losses: Mapping[int, Sequence[float]]
    training: tuple[str, ...]
    evidence: tuple[Proof, ...]
    correct: Mapping[int, Sequence[float]] = field(repr=False)
    chain: tuple[tuple[str, Mapping[str, Figure]], ...] = ()
    processes: tuple[Mapping[str, Figure], ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    cards: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were asked for."""
        return tuple(ending.seed for ending in self.endings)

    @property
    def succeeded(self) -> tuple[int, ...]:
        """The seeds that ended ok, whose values the figures hold."""
        return tuple(ending.seed for ending in self.endings if ending.status == "ok")

    @property
    def ok(self) -> bool:
        """Whether every seed ended ok."""
        return self.status == "ok"

    @property
    def status(self) -> str:
        """``ok`` if every seed is, else the worst seed's."""
        return max((ending.status for ending in self.endings), key=_badness, default="not run")

    @property
    def status_text(self) -> str:
        """The status, with counts where seeds differ: ``oom (2 of 3 seeds ok)``."""
        if self.ok or not self.succeeded:
            return self.status
        return f"{self.status} ({len(self.succeeded)} of {len(self.endings)} seeds ok)"

    @property
    def reasons(self) -> list[str]:
        """Why seeds did not end ok, each reason once."""
        return list(dict.fromkeys(ending.reason for ending in self.endings if ending.status != "ok" and ending.reason))

    @property
    def failures(self) -> list[tuple[Ending, list[int]]]:
        """Each way in which seeds did not end ok, with those seeds."""
        found: dict[Ending, list[int]] = {}
        for ending in self.endings:
            if ending.status != "ok":
                found.setdefault(replace(ending, seed=-1), []).append(ending.seed)
        return list(found.items())

    @property
    def contended(self) -> list[str]:
        """Why timings are not to be trusted, each reason once."""
        return list(dict.fromkeys(figure.contended for figure in self.figures.values() if figure.contended))


@dataclass(frozen=True)
class Comparison:
    """All recipes of one suite on one model and one task.

    ``rows``: the baseline, then the others from the best primary quality down, then those that are not ok.
    ``metrics`` are those that at least one row has. ``environment`` is the run's. ``data`` says what became of the task's
    texts, as :meth:`bench.tasks.base.Task.counts` does. ``ranked_by`` is the metric that the task declares as its primary
    one; empty where the records do not say.
    """

    title: str
    model: str
    task: str
    baseline: str
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]
    run: str
    started: str
    version: str
    seeds: tuple[int, ...]
    data: Mapping[str, int] = field(default_factory=dict)
    ranked_by: str = ""

    def main(self, family: str) -> Metric | None:
        """The metric that stands for a family where there is room for one; None where none that may was measured."""
        shown = [(each.summary.order, each) for each in self.metrics if each.summary and each.family == family]
        return min(shown, key=lambda pair: pair[0], default=(0, None))[1]

    @property
    def primary(self) -> Metric | None:
        """The quality metric that ranks recipes; None where quality was not measured."""
        return next((each for each in self.metrics if each.name == self.ranked_by), None) or self.main("quality")

    @property
    def mains(self) -> list[Metric]:
        """The metrics of the short table: the primary one, those whose summary says so, and the gain beside latency."""
        first = {0: self.primary} if self.primary else {}
        for each in self.metrics:
            if each.summary and each != self.primary and not (each.about == "training" and self.trained_once):
                first.setdefault(each.summary.order, each)
        shown = [first[order] for order in sorted(first)]
        if self.gain and (latency := self.main("latency")) in shown:
            shown.insert(shown.index(latency) + 1, self.gain)
        return shown

    @property
    def trained_once(self) -> bool:
        """Whether most recipes go on from the baseline's training, so that its cost does not tell them apart."""
        base = next((row for row in self.rows if row.is_baseline), None)
        return base is not None and 2 * sum(row.training == base.training for row in self.rows) > len(self.rows)

    @property
    def gain(self) -> Metric | None:
        """How much faster the uncompressed model became, at the latency that stands for all; None where not timed."""
        latency = self.main("latency")
        return next((each for each in self.metrics if latency and each.name == f"{latency.name}_speedup"), None)


def compare(records: Records) -> list[Comparison]:
    """The comparisons that `records` hold: for each title its latest run, for each model and task in it
    one."""
    return list(Comparisons(records))


def of_folder(folder: str | os.PathLike[str]) -> list[Comparison]:
    """The comparisons of a results folder. Lines that are left out are warned of.

    Raises:
        RecordError: there are no records, or one is of a newer schema.
    """
    records = read(folder)
    for text in records.warnings:
        warnings.warn(text, stacklevel=2)
    return compare(records)


class Comparisons(Sequence[Comparison]):
    """The comparisons that records hold, each made when it is asked for: all at once take much memory."""

    def __init__(self, records: Records) -> None:
        self._records = records
        latest: dict[str, Mapping[str, Any]] = {}
        for run in sorted(records.runs, key=lambda run: str(run.get("started") or "")):
            latest[run["title"]] = run
        self._found: list[tuple[Mapping[str, Any], str, str, list[Mapping[str, Any]]]] = []
        for run in latest.values():
            subjects: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
            for cell in run["cells"]:
                subjects.setdefault((cell["model"], cell["task"]), []).append(cell)
            self._found += [(run, model, task, cells) for (model, task), cells in subjects.items()]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def titles(self) -> list[str]:
        """Of the suites, each once."""
        return list(dict.fromkeys(run["title"] for run, *_ in self._found))

    @overload
    def __getitem__(self, at: int) -> Comparison: ...

    @overload
    def __getitem__(self, at: slice) -> list[Comparison]: ...

    def __getitem__(self, at: int | slice) -> Comparison | list[Comparison]:
        found = self._found[at]
        if isinstance(found, list):
            return [_comparison(*each, self._records) for each in found]
        return _comparison(*found, self._records)


def change(metric: Metric, ours: Row, theirs: Row) -> Change | None:
    """`ours` against `theirs`, paired over the seeds that both have; None where they share none, or have no
    ratio.

    A quality difference must hold against other seeds and, where each item's correctness is recorded,
    against other test items too: the interval spans both. One seed leaves the items alone.
    """
    mine, other = ours.figures.get(metric.name), theirs.figures.get(metric.name)
    seeds = sorted(mine.by_seed.keys() & other.by_seed.keys()) if mine and other else []
    if not mine or not other or not seeds:
        return None
    a, b = [mine.by_seed[seed] for seed in seeds], [other.by_seed[seed] for seed in seeds]
    contended = mine.contended or (other.contended and f"{theirs.name}: {other.contended}")
    if _kind(metric) == "ratio":
        if min(*a, *b) <= 0:
            return Change(metric, 1.0, (1.0, 1.0), "exact", contended) if a == b else None
        found = stats.ratio(a, b)
        if found.interval is None and metric.exact:
            return Change(metric, found.value, (found.value, found.value), "exact", contended)
        return Change(metric, found.value, found.interval, "seeds" if found.interval else "nothing", contended)

    found = stats.difference(a, b)
    items = _over_items(metric, ours, theirs, seeds)
    if found.interval and items:
        span = min(found.interval[0], items[0]), max(found.interval[1], items[1])
        return Change(metric, found.value, span, "seeds and items", contended)
    if items:
        return Change(metric, found.value, items, "items", contended)
    if found.interval and found.value and _flat(found.interval, found.value):
        # Seeds that all differ by the same share of items show no noise; that does not mean that there is
        # none.
        return Change(metric, found.value, None, "nothing", contended)
    return Change(metric, found.value, found.interval, "seeds" if found.interval else "nothing", contended)


def front(
    points: Sequence[tuple[float, float]], better: tuple[Direction, Direction] = ("lower", "higher")
) -> list[int]:
    """The Pareto front: indices of the points that no other beats in one coordinate without losing in the
    other.

    Ordered by the first coordinate, the best first; of points that are the same, all are on it. `better`
    gives each coordinate's direction; the default suits (cost, quality).
    """
    signs = [-1.0 if direction == "higher" else 1.0 for direction in better]
    flipped = [(signs[0] * x, signs[1] * y) for x, y in points]
    found: list[int] = []
    for index in sorted(range(len(points)), key=flipped.__getitem__):
        if not found or flipped[index][1] < flipped[found[-1]][1] or flipped[index] == flipped[found[-1]]:
            found.append(index)
    return found


# -- one comparison ----------------------------------------------------------------------------------------


def _comparison(
    run: Mapping[str, Any], model: str, task: str, cells: Sequence[Mapping[str, Any]], records: Records
) -> Comparison:
    every = records.nodes
    look = sketches(every)
    sketched = [look(id_) for id_ in dict.fromkeys(id_ for cell in cells for id_ in cell["path"]) if id_ in every]
    known = registry.measured(sketched)
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        by_name.setdefault(cell["name"], []).append(cell)
    baseline = run["baseline"]
    rows = [_row(name, of_name, name == baseline, every, known) for name, of_name in by_name.items()]
    base = next((row for row in rows if row.is_baseline), None)
    if base is not None:
        rows = [row if row is base else _with_changes(row, base, known) for row in rows]
    present = tuple(each for each in known if any(each.name in row.figures for row in rows))
    draft = Comparison(
        title=run["title"],
        model=model,
        task=task,
        baseline=baseline,
        rows=(),
        metrics=present,
        environment=run.get("environment") or {},
        warnings=(
            *_few(records.warnings),
            *(note["text"] for note in run.get("notes", ()) if (note["model"], note["task"]) == (model, task)),
            *_warnings(rows, base, baseline, sketched),
        ),
        run=str(run.get("run", "")),
        started=str(run.get("started") or ""),
        version=str(run.get("version") or ""),
        seeds=tuple(dict.fromkeys(cell["seed"] for cell in cells)),
        data=(run.get("data") or {}).get(task) or {},
        ranked_by=(run.get("primary") or {}).get(task, ""),
    )
    return replace(draft, rows=tuple(_ranked(rows, draft.primary)))


def _row(
    name: str,
    cells: Sequence[Mapping[str, Any]],
    is_baseline: bool,
    nodes: Mapping[str, Record],
    known: Sequence[Metric],
) -> Row:
    nodes = {id_: paired(nodes[id_], nodes) for cell in cells for id_ in cell["path"] if id_ in nodes}
    endings = tuple(_ending(cell, nodes) for cell in cells)
    every = {cell["seed"]: [nodes[id_] for id_ in cell["path"] if id_ in nodes] for cell in cells}
    paths = {ending.seed: every[ending.seed] for ending in endings if ending.status == "ok"}
    figures = {metric.name: figure for metric in known if (figure := _figure(metric, paths))}
    trained = {seed: [node for node in path if node.get("training")] for seed, path in every.items()}
    return Row(
        name=name,
        recipe=cells[0]["recipe"],
        is_baseline=is_baseline,
        endings=endings,
        figures=figures,
        losses={seed: losses for seed, path in trained.items() if (losses := _losses(path))},
        training=tuple(node["id"] for path in trained.values() for node in path),
        evidence=_evidence(every.values()),
        correct={
            seed: array("f", correct)  # a record has them as a list, which is many times the size
            for seed, path in paths.items()
            if (correct := (path[-1].get("quality") or {}).get("correct"))
        },
        chain=_chain(paths, known),
        processes=_processes(paths, known),
        absent={
            name: str(reason)
            for path in paths.values()
            for node in path
            for name, reason in (node.get("absent") or {}).items()
        },
        unknown=frozenset(name for path in paths.values() for node in path for name in registry.unknown(node)),
        cards={
            seed: tuple(str(card.get("uuid")) for card in path[-1]["gpus"])
            for seed, path in paths.items()
            if path[-1].get("gpus")
        },
    )


def _figure(metric: Metric, paths: Mapping[int, Sequence[Record]]) -> Figure | None:
    values = {seed: value for seed, path in paths.items() if (value := metric.read(path)) is not None}
    values = {seed: value for seed, value in values.items() if abs(value) <= _LARGEST}
    if not values:
        return None
    estimate = stats.mean(list(values.values()))
    return Figure(metric, estimate.value, estimate.interval, values, _contention(metric, paths.values()))


def _chain(
    paths: Mapping[int, Sequence[Record]], known: Sequence[Metric]
) -> tuple[tuple[str, Mapping[str, Figure]], ...]:
    stages = [str(node.get("stage")) for node in next(iter(paths.values()), ())]
    found = []
    for depth, stage in enumerate(stages, start=1):
        until = {seed: path[:depth] for seed, path in paths.items()}
        quality = [metric for metric in known if metric.family == "quality" and metric.about != "training"]
        found.append((stage, {metric.name: figure for metric in quality if (figure := _figure(metric, until))}))
    return tuple(found)


def _processes(paths: Mapping[int, Sequence[Record]], known: Sequence[Metric]) -> tuple[Mapping[str, Figure], ...]:
    ranks = {
        seed: training.get("ranks") or []
        for seed, path in paths.items()
        for training in [node["training"] for node in path if node.get("training")][-1:]
    }
    found = []
    for rank in range(min(map(len, ranks.values()), default=0)):
        own: dict[int, list[Record]] = {
            seed: [{"training": each[rank], "weight_bytes": each[rank].get("weight_bytes")}]
            for seed, each in ranks.items()
        }
        held = [metric for metric in known if metric.exact or metric.family == "memory"]
        found.append({metric.name: figure for metric in held if (figure := _figure(metric, own))})
    return tuple(found)


def _ending(cell: Mapping[str, Any], nodes: Mapping[str, Record]) -> Ending:
    if cell.get("refused"):
        return Ending(cell["seed"], "refused", reason="; ".join(cell["refused"]))
    for id_ in cell["path"]:
        node = nodes.get(id_)
        if node is None:
            return Ending(cell["seed"], "not run", reason="no record of it in this folder")
        if node["status"] != "ok":
            reason, log = str(node.get("reason") or ""), str(node.get("log") or "")
            return Ending(cell["seed"], node["status"], str(node.get("stage") or ""), reason, log)
    return Ending(cell["seed"], "ok" if cell["path"] else "not run")


def _losses(path: Iterable[Record]) -> Sequence[float]:
    return array("d", [loss for node in path for loss in node["training"].get("losses") or []])


def _evidence(paths: Iterable[Sequence[Record]]) -> tuple[Proof, ...]:
    claims: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for path in paths:
        for node in path:
            for claim in node.get("evidence") or []:
                claims.setdefault((str(node.get("stage")), claim["method"], claim["text"]), []).append(claim)
    return tuple(
        Proof(
            *key,
            seen=str(next((each for each in seen if not each["holds"]), seen[0])["seen"]),
            held=sum(bool(each["holds"]) for each in seen),
            of=len(seen),
        )
        for key, seen in claims.items()
    )


def _contention(metric: Metric, paths: Iterable[Sequence[Record]]) -> str | None:
    timed = {"throughput": "training", "time": "training", "latency": "latency"}
    what = None if metric.exact else timed.get(metric.family)
    for path in paths if what else ():
        # A path's latency is its last stage's; its training, that of all stages.
        nodes = path if what == "training" else path[-1:]
        if metric.name == "scaling_efficiency":
            nodes = [*nodes, *(node["single_process"] for node in nodes if node.get("single_process"))]
        for node in nodes:
            trust = (node.get("trust") or {}).get(what) or {}
            if trust.get("contended"):
                return str(trust.get("reason") or "the machine was busy")
    return None


def _with_changes(row: Row, base: Row, known: Sequence[Metric]) -> Row:
    changes = {metric.name: found for metric in known if (found := change(metric, row, base))}
    return replace(row, changes=changes)


def _over_items(metric: Metric, ours: Row, theirs: Row, seeds: Sequence[int]) -> Interval | None:
    """The interval over test items, where `metric` is the share of right items and both had the same
    number."""
    for row in (ours, theirs):
        values = row.figures[metric.name].by_seed
        if any(not _is_share(row.correct.get(seed), values[seed]) for seed in seeds):
            return None
    mine, other = ([row.correct[seed] for seed in seeds] for row in (ours, theirs))
    if len({len(each) for each in (*mine, *other)}) != 1 or len(mine[0]) < 2:
        return None
    return stats.item_difference(mine, other).interval


def _is_share(correct: Sequence[float] | None, value: float) -> bool:
    return bool(correct) and math.isclose(sum(correct) / len(correct), value, rel_tol=1e-6, abs_tol=1e-6)  # type: ignore[arg-type]


def _ranked(rows: Iterable[Row], primary: Metric | None) -> list[Row]:
    def key(row: Row) -> tuple[bool, int, float]:
        value = 0.0
        if primary is not None:
            figure = row.figures.get(primary.name)
            value = math.inf if figure is None else -figure.value if primary.better == "higher" else figure.value
        return not row.is_baseline, 0 if row.ok else 1 if row.succeeded else 2, value

    return sorted(rows, key=key)


def _warnings(rows: Sequence[Row], base: Row | None, baseline: str, nodes: Iterable[Record]) -> list[str]:
    found = []
    if base is None:
        found.append(f"The baseline {_quoted(baseline)} is not among the recipes, so there are no ratios.")
    elif not base.ok:
        less = "ratios rest on the seeds that ended ok" if base.succeeded else "there are no ratios"
        found.append(f"The baseline {_quoted(baseline)} is {base.status_text}, so {less}.")
    for what, values in _settings(nodes).items():
        if len(values) > 1:
            found.append(
                f"Records of different environments are compared: {what} is {' and '.join(sorted(values))}. "
                "Do not trust ratios between them."
            )
    absent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.absent.items():
            absent.setdefault((_title(name), reason.replace("`", "'")), []).append(_quoted(row.name))
    found += [f"Not measured: {title} of {_shortened(names)}: {why}." for (title, why), names in absent.items()]
    if unknown := sorted({_quoted(name) for row in rows for name in row.unknown}):
        found.append(
            f"Recorded and not shown, for no metric of that name is registered here: {_shortened(unknown)}. "
            "Install the package that registers it."
        )
    elsewhere = [_quoted(row.name) for row in rows if base is not None and _on_other_cards(row, base)]
    if elsewhere:
        found.append(
            f"Not on the card of the baseline {_quoted(baseline)} for each seed: {_shortened(elsewhere)}. Cards of one "
            "kind differ by some percent; run them again with `--fresh` on one machine."
        )
    busy = [_quoted(row.name) for row in rows if row.contended]
    if busy:
        found.append(
            f"Timings taken while the machine was busy are marked ⚠: {_shortened(busy)}. "
            "Run them again on a quiet machine."
        )
    return found


def _on_other_cards(row: Row, base: Row) -> bool:
    """Whether the first card of some seed is another than the baseline's."""
    return any(row.cards[seed][:1] != base.cards[seed][:1] for seed in row.cards.keys() & base.cards.keys())


def _title(name: str) -> str:
    """What readers call the metric `name`, or the family of metrics."""
    try:
        return registry.metric(name).title
    except KeyError:
        return name.replace("_", " ").capitalize()


def _settings(nodes: Iterable[Record]) -> dict[str, set[str]]:
    """Each setting that results depend on, with the values that occur. Versions that were not recorded
    don't count."""
    plain = {"device", "device_name", "gpus", "cpu", "cores", "threads", "system", "python"}
    plain |= {"cuda", "driver", "gpu_memory", "power_limit", "mig"}
    found: dict[str, set[str]] = {}
    environments = {id(environment): environment for node in nodes if (environment := node.get("environment"))}
    distinct = {repr(environment): environment for environment in environments.values()}
    for environment in distinct.values():
        for where in (environment, environment.get("machine") or {}):
            for key, value in dict(where).items():
                if key in plain and value not in (None, ""):
                    found.setdefault(key, set()).add(str(value))
                elif key == "versions":
                    for package, version in dict(value).items():
                        found.setdefault(package, set()).add(str(version))
    return found


# -- the answer in words -----------------------------------------------------------------------------------


def headline(comparison: Comparison) -> list[str]:
    """The answer in a few plain sentences, the most important first. Names stand in backticks."""
    good = [row for row in comparison.rows if row.ok]
    sentences: list[str] = []
    if not good:
        sentences.append("No recipe gave a result for every seed.")
    elif comparison.primary is None:
        sentences.append("Quality was not measured, so this compares cost only.")
        sentences += _cheapest(comparison, good, "Of all recipes")
    else:
        sentences += _best(comparison, good, comparison.primary)
    sentences += _traps(comparison, good)
    if bad := [row for row in comparison.rows if not row.ok]:
        names = _shortened([f"{_quoted(row.name)} ({row.status_text})" for row in bad])
        verb = "is" if len(bad) == 1 else "are"
        sentences.append(
            f"{len(bad)} of {_count(len(comparison.rows), 'recipe')} {verb} without a full result: {names}."
        )
    if len(comparison.seeds) == 1 and good:
        over_items = any(each.covers == "items" for row in good for each in row.changes.values())
        sentences.append(
            "Only one seed ran, so training noise is not covered"
            + (
                ": intervals of quality cover the choice of test items alone."
                if over_items
                else " and nothing has an interval."
            )
        )
    return sentences


_VERBS = {
    "better": "is better than",
    "worse": "is worse than",
    "tie": "ties with",
    "unclear": "cannot, without an interval, be told apart from",
}


def _best(comparison: Comparison, good: Sequence[Row], primary: Metric) -> list[str]:
    scored = [row for row in good if primary.name in row.figures]
    if not scored:
        return [f"{primary.title} was measured for no recipe that ended ok."]
    sign = -1 if primary.better == "higher" else 1
    best = min(scored, key=lambda row: sign * row.figures[primary.name].value)
    against = {row.name: change(primary, row, best) for row in scored if row is not best}
    ties = [row for row in scored if (found := against.get(row.name)) and found.verdict == "tie"]
    unclear = any(found is None or found.verdict == "unclear" for found in against.values())
    what = primary.title.lower()
    if len(scored) == 1:
        return [
            f"{_quoted(best.name)} has {what} {best.figures[primary.name]}; there is no other result to compare it with."
        ]
    highest = "highest" if primary.better == "higher" else "lowest"
    text = f"{_quoted(best.name)} has the {highest} {what}, {best.figures[primary.name]}"
    if ties:
        verb = "ties" if len(ties) == 1 else "tie"
        names = _shortened([_quoted(row.name) for row in ties])
        text += f"; {names} {verb} with it: the difference is inside its 95 % interval"
    elif unclear:
        text += "; without intervals, which others tie with it is not known"
    elif against:
        text += ", and no other recipe ties with it"
    sentences = [f"{text}."]
    if ties:
        sentences += _cheapest(comparison, [best, *ties], "Among these", best)
    if not best.is_baseline and best not in ties and (found := best.changes.get(primary.name)):
        baseline = f"the baseline {_quoted(comparison.baseline)}"
        sentences.append(f"{_quoted(best.name)} {_VERBS[found.verdict]} {baseline}: {_spelled(found)} {what}.")
    return sentences


def _cheapest(comparison: Comparison, rows: Sequence[Row], among: str, best: Row | None = None) -> list[str]:
    """Who needs least of what; those that cannot be told apart from the cheapest share the place."""
    wins: dict[str, list[str]] = {}
    for metric, phrase in _costs(comparison):
        have = [row for row in rows if metric.name in row.figures]
        if len(have) < 2:
            continue
        sign = -1 if metric.better == "higher" else 1
        first = min(have, key=lambda row: sign * row.figures[metric.name].value)
        others = [found for row in have if row is not first and (found := change(metric, row, first))]
        than = change(metric, first, best) if best is not None and first is not best else None
        if all(map(_alike, others)) or (than is not None and _alike(than)):
            continue
        figure = first.figures[metric.name]
        busy = any(found.contended for found in [*others, *([than] if than else [])])
        notes = [f"{show(figure.value, metric.unit)}{' ⚠' if busy else ''}"]
        if best is not None and than is not None:
            notes.append(f"{than} of {_quoted(best.name)}")
        if any(found.verdict == "unclear" for found in others):
            notes.append("no interval")
        elif shared := sum(map(_alike, others)):
            notes.append(_count(shared, "tie"))
        wins.setdefault(first.name, []).append(f"{phrase} ({', '.join(notes)})")
    if not wins:
        return []
    return [f"{among}, " + "; ".join(f"{_quoted(name)} {_listed(parts)}" for name, parts in wins.items()) + "."]


def _costs(comparison: Comparison) -> list[tuple[Metric, str]]:
    return [(each, each.summary.best) for each in comparison.mains if each.summary and each.summary.best]


def _traps(comparison: Comparison, good: Sequence[Row]) -> list[str]:
    """What one might expect to be faster and is not: smaller but slower, and less memory but slower steps."""
    sentences = []
    size, latency = comparison.main("size"), comparison.main("latency")
    memory = next((each for each in comparison.metrics if each.name == "train_peak_bytes"), None)
    throughput = comparison.main("throughput")
    pairs = [
        (size, latency, "Smaller is not faster here"),
        (memory, throughput, "Less training memory does not mean faster training here"),
    ]
    for cheap, slow, claim in pairs:
        if cheap is None or slow is None:
            continue
        found = []
        for row in good:
            if slow is latency and comparison.gain and comparison.gain.name in row.figures:
                continue  # timed in turns, which says more
            saves, costs = row.changes.get(cheap.name), row.changes.get(slow.name)
            if saves and costs and _gains(saves) and _loses(costs):
                doubt = ", no interval" if costs.verdict == "unclear" else ""
                found.append(f"{_quoted(row.name)} ({_times(saves)}, but {_times(costs)}{doubt})")
        if found:
            sentences.append(f"{claim}: {_shortened(found, 3)}, against the baseline {_quoted(comparison.baseline)}.")
    return sentences + _slowed(comparison, good)


def _slowed(comparison: Comparison, good: Sequence[Row]) -> list[str]:
    """Who answers more slowly than the model that it was made from, where the two were timed in turns."""
    latency, gain = comparison.main("latency"), comparison.gain
    if latency is None or gain is None:
        return []
    measured = [(row, row.figures[gain.name]) for row in good if gain.name in row.figures]
    slow = [
        (row, figure)
        for row, figure in measured
        # Without an interval, what is too near to 1 is not worth a sentence.
        if (figure.interval[1] < 1 if figure.interval else figure.value < 1 / 1.1)
    ]
    if not slow:
        return []
    slow.sort(key=lambda pair: pair[1].value)
    names = [f"{_quoted(row.name)} ({figure}{' ⚠' if figure.contended else ''})" for row, figure in slow]
    return [
        f"{len(slow)} of {len(measured)} compressed models are slower than the one they were made from "
        f"({latency.title[0].lower()}{latency.title[1:]}, timed in turns): {_shortened(names)}."
    ]


def _gains(found: Change) -> bool:
    return found.verdict == "better" or (found.verdict == "unclear" and found.metric.improvement(found.value))


def _loses(found: Change) -> bool:
    far = not _alike(found) and not found.metric.improvement(found.value)
    return found.verdict == "worse" or (found.verdict == "unclear" and far)


def _alike(found: Change) -> bool:
    """Whether a ratio is a tie, or has no interval and is too near to 1 to be worth a sentence."""
    return found.verdict == "tie" or (found.verdict == "unclear" and 1 / 1.1 < found.value < 1.1)


def _times(found: Change) -> str:
    return f"{found} {found.metric.title[0].lower()}{found.metric.title[1:]}"


def _spelled(found: Change) -> str:
    return f"{found} ({found.range})" if found.range else str(found)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "'") + "`"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _few(warnings: Sequence[str], most: int = 20) -> list[str]:
    more = len(warnings) - most
    return [*warnings[:most], f"{_count(more, 'more line')} of the records left out"] if more > 0 else list(warnings)


def _shortened(parts: Sequence[str], most: int = 8) -> str:
    return _listed([*parts[:most], f"{len(parts) - most} more"] if len(parts) > most else parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# -- small things ------------------------------------------------------------------------------------------


def _kind(metric: Metric) -> Literal["difference", "ratio"]:
    return "difference" if metric.family == "quality" else "ratio"


def _flat(interval: Interval, value: float) -> bool:
    return interval[1] - interval[0] <= 1e-9 * abs(value)


@functools.cache
def _badness(status: str) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)
