"""From records to an answer: each recipe beside the baseline, with intervals.

A recipe that gave no result stays among the rows with its reason. Facts alone: ``reports`` has the words.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from bench.compare import doubts, looks, stats, tuning
from bench.compare.doubts import Doubt
from bench.compare.rows import DEFAULT_MARGINS, NOT_RUN, Change, Ending, Figure, Proof, Reference, Row, change, kind_of
from bench.compare.tuning import Tuning
from bench.compare.turns import Pace, Paths, Step, in_turns, pace
from bench.metrics import registry
from bench.metrics.families import lm_eval
from bench.metrics.metric import Metric
from bench.record.reading import read, sketches
from bench.record.schema import LARGEST, Cell, Claim, Node, Run
from bench.suite.margins import Margins

if TYPE_CHECKING:
    from bench.record.reading import Records


@dataclass(frozen=True)
class Comparison:
    """All recipes of one suite on one model and one task.

    ``rows``: the baseline, then the others from the best primary quality down, then those that are not ok.
    ``metrics`` are those that at least one row has. ``environment`` is the run's, as it was recorded. ``data`` says what
    became of the task's texts, as :meth:`bench.tasks.base.Task.counts` does. ``ranked_by`` is the metric that the task
    declares as its primary one; empty where the records do not say. Up to ``margins``, differences do not matter. ``looks``
    are the numbers of seeds at which a run that adds seeds may look; empty where each recipe has the same seeds, and one look
    is all. Then ``seeds`` are those of the recipe that has most. ``references`` are beside the rows: what a guess without the
    text reaches, and the model before any training. ``suite`` is the suite's table, empty where an older version recorded
    none; ``fingerprints`` are of the model's files and of the task's data. ``tunings`` say how the recipes' learning rates were
    chosen; empty where the suite tunes none.
    """

    title: str
    model: str
    task: str
    baseline: str
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    environment: Mapping[str, Any]
    doubts: tuple[Doubt, ...]
    run: str
    started: str
    version: str
    seeds: tuple[int, ...]
    data: Mapping[str, int] = field(default_factory=dict)
    ranked_by: str = ""
    margins: Margins = DEFAULT_MARGINS
    references: tuple[Reference, ...] = ()
    looks: tuple[int, ...] = ()
    suite: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    tunings: tuple[Tuning, ...] = ()

    def against(self, baseline: str) -> Comparison:
        """The same recipes, compared with `baseline`, which is one of them."""
        rows = [replace(row, is_baseline=row.name == baseline, changes={}) for row in self.rows]
        return _compared(replace(self, baseline=baseline), rows)

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
    def costs(self) -> list[Metric]:
        """Of those, what a recipe costs."""
        return [each for each in self.mains if each.summary and each.summary.best]

    @property
    def trained_once(self) -> bool:
        """Whether most recipes go on from the baseline's training, so that its cost does not tell them apart."""
        base = next((row for row in self.rows if row.is_baseline), None)
        return base is not None and 2 * sum(_all_in(row, base) for row in self.rows) > len(self.rows)

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
        runs = sorted(map(Run.of, records.runs), key=lambda run: run.started or "")
        self.runs = list({run.title: run for run in runs}.values())
        """The latest run of each title."""
        self._found: list[tuple[Run, str, str, list[Cell]]] = []
        for run in self.runs:
            subjects: dict[tuple[str, str], list[Cell]] = {}
            for cell in run.cells:
                subjects.setdefault((cell.model, cell.task), []).append(cell)
            self._found += [(run, model, task, cells) for (model, task), cells in subjects.items()]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def titles(self) -> list[str]:
        """Of the suites, each once."""
        return list(dict.fromkeys(run.title for run, *_ in self._found))

    @overload
    def __getitem__(self, at: int) -> Comparison: ...

    @overload
    def __getitem__(self, at: slice) -> list[Comparison]: ...

    def __getitem__(self, at: int | slice) -> Comparison | list[Comparison]:
        found = self._found[at]
        if isinstance(found, list):
            return [_comparison(*each, self._records) for each in found]
        return _comparison(*found, self._records)

    def alone(self, node: str | None = None) -> Iterator[Alone]:
        """Each cell by itself, made when it is asked for; with a `node`, those that have this stage."""
        nodes = self._records.nodes
        for run, _, _, cells in self._found:
            wanted = [cell for cell in cells if node is None or node in cell.path]
            if wanted:
                known = registry.measured(_sketched(wanted, nodes))
                paces = _paces((cell for cell in cells if cell.name == run.baseline), self._records)
                for cell in wanted:
                    row = _row(cell.name, [cell], cell.name == run.baseline, nodes, known, paces)
                    yield Alone(run, cell, row, tuple(Node.of(nodes[id_]) for id_ in cell.path if id_ in nodes))


@dataclass(frozen=True)
class Alone:
    """One cell of a run by itself: a row of one seed, and the records of its stages, as far as there are some."""

    run: Run
    cell: Cell
    row: Row
    path: tuple[Node, ...]


# -- one comparison ----------------------------------------------------------------------------------------


def _all_in(row: Row, base: Row) -> bool:
    """Whether the baseline, which may have more seeds, shares all training of `row`."""
    return bool(row.training) and set(row.training) <= set(base.training)


def _comparison(run: Run, model: str, task: str, cells: Sequence[Cell], records: Records) -> Comparison:
    every = records.nodes
    sketched = _sketched(cells, every)
    known = registry.measured(sketched)
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    paces = _paces(by_name.get(run.baseline, ()), records)
    rows = [_row(name, of_name, name == run.baseline, every, known, paces) for name, of_name in by_name.items()]
    margins = Margins.recorded(run.margins or {})
    present = tuple(each for each in known if any(each.name in row.figures for row in rows))
    tunings = tuple(tuning.of_run(run, model, task, records))
    draft = Comparison(
        title=run.title,
        model=model,
        task=task,
        baseline=run.baseline,
        rows=(),
        metrics=present,
        environment=run.get("environment") or {},
        doubts=(
            *doubts.of_lines(records.warnings),
            *(doubts.Noted(note.text) for note in run.notes if (note.model, note.task) == (model, task)),
            *doubts.of_tunings(tunings),
            *doubts.of_rows(rows, run.baseline, [each["environment"] for each in sketched if each.get("environment")]),
        ),
        run=run.run,
        started=run.started or "",
        version=run.version or "",
        seeds=tuple(dict.fromkeys(cell.seed for cell in cells)),
        data=(run.data or {}).get(task) or {},
        ranked_by=(run.primary or {}).get(task, ""),
        margins=margins,
        references=tuple(_references(run.references or (), model, task, records)),
        looks=tuple(run.settle.looks) if run.settle else (),
        suite=run.suite if isinstance(run.suite, Mapping) else {},
        fingerprints=_fingerprints(next((every[id_] for cell in cells for id_ in cell.path if id_ in every), {})),
        tunings=tunings,
    )
    return _compared(draft, rows)


def _sketched(cells: Iterable[Cell], nodes: Mapping[str, Node]) -> list[Mapping[str, Any]]:
    look = sketches(nodes)
    return [look(id_) for id_ in dict.fromkeys(id_ for cell in cells for id_ in cell.path) if id_ in nodes]


def _fingerprints(node: Mapping[str, Any]) -> dict[str, str]:
    return {what: str(found) for what in ("model", "task") if (found := node.get(f"{what}_fingerprint"))}


def _compared(draft: Comparison, rows: list[Row]) -> Comparison:
    """`draft` with `rows`, which have their changes beside the baseline's, in their order."""
    if base := next((row for row in rows if row.is_baseline), None):
        rows = [
            row if row is base else replace(row, changes=_changes(row, base, draft.metrics, draft.margins))
            for row in rows
        ]
    if primary := draft.primary:
        rows = _decided(rows, primary, draft)
    return replace(draft, rows=tuple(_ranked(rows, primary)))


def _paces(cells: Iterable[Cell], records: Records) -> dict[int, Pace]:
    """What the baseline's `cells` set, by seed."""
    steps = _steps(cells, records.nodes)
    found = {cell.seed: pace([steps[id_] for id_ in cell.path if id_ in steps], records.turns) for cell in cells}
    return {seed: each for seed, each in found.items() if each}


def _steps(cells: Iterable[Cell], nodes: Mapping[str, Node]) -> dict[str, Step]:
    ids = {id_ for cell in cells for id_ in cell.path if id_ in nodes}
    return {id_: Step.of(Node.of(nodes[id_]), nodes) for id_ in ids}


def _row(
    name: str,
    cells: Sequence[Cell],
    is_baseline: bool,
    nodes: Mapping[str, Node],
    known: Sequence[Metric],
    paces: Mapping[int, Pace],
) -> Row:
    steps = _steps(cells, nodes)
    endings = tuple(_ending(cell, steps) for cell in cells)
    every = {cell.seed: [steps[id_] for id_ in cell.path if id_ in steps] for cell in cells}
    paths: Paths = {ending.seed: every[ending.seed] for ending in endings if ending.status == "ok"}
    not_in_turns = ""
    if isinstance(paced := in_turns(paths, paces), str):
        not_in_turns = "" if is_baseline else paced
    else:
        paths = paced
    last = {seed: path[-1].node for seed, path in paths.items()}
    trained = {seed: [step.node for step in path if step.node.training] for seed, path in every.items()}
    return Row(
        name=name,
        recipe=cells[0].recipe,
        is_baseline=is_baseline,
        endings=endings,
        figures=_figures(known, paths),
        losses={seed: losses for seed, path in trained.items() if (losses := _losses(path))},
        clock={seed: _clock(path) for seed, path in trained.items() if path},
        validation={seed: curve for seed, path in trained.items() if (curve := tuple(_validation(path)))},
        phases=_phases(paths.values()),
        arguments=tuple(step.node.arguments for step in next(iter(paths.values()), ()) if step.node.arguments),
        training=tuple(node.id for path in trained.values() for node in path),
        not_in_turns=not_in_turns,
        resumed={seed: after for seed, path in trained.items() if (after := _resumed(path))},
        evidence=_evidence(every.values()),
        correct={
            seed: array("f", node.quality.correct)  # a record has them as a list, which is many times the size
            for seed, node in last.items()
            if node.quality and node.quality.correct
        },
        items=_items(last),
        chain=_chain(paths, known),
        processes=_processes(paths, known),
        absent={
            metric: reason
            for path in paths.values()
            for step in path
            for metric, reason in (step.node.absent or {}).items()
        },
        unknown=frozenset(name for path in paths.values() for step in path for name in registry.unknown(step.node)),
        cards={seed: tuple(str(card.get("uuid")) for card in node.gpus) for seed, node in last.items() if node.gpus},
    )


def _items(last: Mapping[int, Node]) -> dict[str, dict[int, array[float]]]:
    """What the items of lm-eval's tasks add to each of its scores, for each seed."""
    found: dict[str, dict[int, array[float]]] = {}
    for seed, node in last.items():
        for name, score in ((node.lm_eval and node.lm_eval.scores) or {}).items():
            found.setdefault(lm_eval.PREFIX + name, {})[seed] = array("f", score.items or ())
    return found


def _figures(known: Iterable[Metric], paths: Paths) -> dict[str, Figure]:
    return {metric.name: figure for metric in known if (figure := _figure(metric, paths))}


def _figure(metric: Metric, paths: Paths) -> Figure | None:
    read = {seed: metric.value([step.paired for step in path]) for seed, path in paths.items()}
    # A value that is larger, as a perplexity can be, is not one that can be compared.
    values = {seed: value for seed, value in read.items() if value is not None and abs(value) <= LARGEST}
    if not values:
        return None
    busy = {seed: why for seed in values if (why := _against(metric, paths[seed]))}
    left_out = tuple(sorted(busy)) if len(busy) < len(values) else ()
    values = {seed: value for seed, value in values.items() if seed not in left_out}
    contended = None if left_out else next(iter(busy.values()), None)
    average = stats.geometric_mean if kind_of(metric) == "ratio" and min(values.values()) > 0 else stats.mean
    estimate = average(list(values.values()))
    return Figure(metric, estimate.value, estimate.interval, values, contended, left_out)


def _chain(paths: Paths, known: Sequence[Metric]) -> tuple[tuple[str, Mapping[str, Figure]], ...]:
    stages = [step.node.stage for step in next(iter(paths.values()), ())]
    quality = [metric for metric in known if metric.family == "quality" and metric.about != "training"]
    return tuple(
        (stage, _figures(quality, {seed: path[:depth] for seed, path in paths.items()}))
        for depth, stage in enumerate(stages, start=1)
    )


def _processes(paths: Paths, known: Sequence[Metric]) -> tuple[Mapping[str, Figure], ...]:
    held = [metric for metric in known if metric.exact or metric.family == "memory"]
    ranks = {
        seed: (step.node, step.paired["training"].get("ranks") or [])
        for seed, path in paths.items()
        for step in [step for step in path if step.node.training][-1:]
    }
    found = []
    for rank in range(min((len(each) for _, each in ranks.values()), default=0)):
        own = {
            seed: [Step(node, {"training": each[rank], "weight_bytes": each[rank].get("weight_bytes")})]
            for seed, (node, each) in ranks.items()
        }
        found.append(_figures(held, own))
    return tuple(found)


def _ending(cell: Cell, steps: Mapping[str, Step]) -> Ending:
    if cell.refused:
        return Ending(cell.seed, "refused", reason="; ".join(cell.refused))
    for id_ in cell.path:
        if id_ not in steps:
            return Ending(cell.seed, NOT_RUN)
        node = steps[id_].node
        if node.status != "ok":
            return Ending(cell.seed, node.status, node.stage, node.reason or "", node.log or "")
    return Ending(cell.seed, "ok" if cell.path else NOT_RUN)


def _losses(path: Iterable[Node]) -> Sequence[float]:
    every = (loss for node in path if node.training for loss in node.training.losses or ())
    return array("d", [math.nan if loss is None else loss for loss in every])


def _validation(path: Iterable[Node]) -> Iterator[tuple[int, Mapping[str, float | None]]]:
    """Steps, over all trainings, and the scores after them."""
    before = 0
    for training in (node.training for node in path if node.training):
        yield from ((before + at.step, at.metrics) for at in training.validation or ())
        before += len(training.step_seconds)


def _clock(path: Iterable[Node]) -> tuple[Sequence[float], Sequence[float]]:
    every = [node.training for node in path if node.training]
    return (
        array("f", itertools.accumulate(value for each in every for value in each.step_seconds)),
        array("f", itertools.accumulate(value for each in every for value in each.tokens)),
    )


def _resumed(path: Iterable[Node]) -> tuple[int, ...]:
    return tuple(step for node in path if node.training for step in node.training.resumed or ())


def _phases(paths: Collection[Sequence[Step]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in paths:
        for step in path:
            seconds = step.node.seconds if isinstance(step.node.seconds, Mapping) else {}
            for name, value in seconds.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    found[str(name)] = found.get(str(name), 0.0) + value / len(paths)
    return found


def _evidence(paths: Iterable[Sequence[Step]]) -> tuple[Proof, ...]:
    claims: dict[tuple[str, str, str], list[Claim]] = {}
    for path in paths:
        for step in path:
            for claim in step.node.evidence or ():
                claims.setdefault((step.node.stage, claim.method, claim.text), []).append(claim)
    return tuple(
        Proof(
            *key,
            seen=next((each for each in seen if not each.holds), seen[0]).seen,
            held=sum(each.holds for each in seen),
            of=len(seen),
        )
        for key, seen in claims.items()
    )


def _against(metric: Metric, path: Sequence[Step]) -> str | None:
    """Why the value of one seed is not to be trusted; None where it is."""
    if metric.exact or metric.family not in ("throughput", "time", "latency"):
        return None
    # A path's latency is its last stage's; its training, that of all stages.
    if metric.family == "latency":
        return path[-1].latency
    steps = list(path)
    if metric.name == "scaling_efficiency":
        steps += [Step.of(Node.of(step.paired["single_process"]), {}) for step in path if step.paired["single_process"]]
    return next((step.training for step in steps if step.training), None)


def _changes(row: Row, base: Row, known: Sequence[Metric], margins: Margins) -> dict[str, Change]:
    return {metric.name: found for metric in known if (found := change(metric, row, base, margins))}


def _references(ids: Collection[str], model: str, task: str, records: Records) -> Iterator[Reference]:
    """What the qualities of a model on a task are to be seen beside."""
    scored = [records.references[id_] for id_ in ids if id_ in records.references]
    ok = {each.seed: each for each in scored if (each.model, each.task, each.status) == (model, task, "ok")}
    if chance := next((each.chance for each in ok.values() if each.chance), None):
        # The same for each seed.
        yield Reference("chance", f"A guess: {chance.about}.", _beside({0: chance.metrics}))
    if untrained := {seed: each.untrained.metrics or {} for seed, each in ok.items() if each.untrained}:
        about = "The model as it was loaded, before any training; weights that are new are as each seed draws them."
        yield Reference("untrained", about, _beside(untrained))


def _beside(metrics: Mapping[int, Mapping[str, float | None]]) -> dict[str, Figure]:
    """The figures of qualities that were scored without a recipe, for each seed."""
    found = {}
    for metric in registry.metrics().values():
        values = {seed: value for seed, of in metrics.items() if (value := of.get(metric.name)) is not None}
        if metric.family == "quality" and values and max(map(abs, values.values())) <= LARGEST:
            mean = stats.mean(list(values.values()))
            found[metric.name] = Figure(metric, mean.value, mean.interval, values)
    return found


def _decided(rows: Sequence[Row], primary: Metric, comparison: Comparison) -> list[Row]:
    """`rows`, with the changes of `primary` as they are decided for all recipes together.

    Where a run adds seeds, they are those of the first look at which a recipe is settled, else of its last: what it has of
    seeds beyond does not count.
    """
    base = next((row for row in rows if row.is_baseline), None)
    found = {row.name: row.changes[primary.name] for row in rows if primary.name in row.changes}
    if base and comparison.looks:
        found, level = {}, looks.level(comparison.looks)
        for look in comparison.looks:
            if len(seeds := comparison.seeds[:look]) < look:
                break
            for row in rows:
                if row is base or not (_looked_at(row, seeds) and _looked_at(base, seeds)):
                    continue
                before = found.get(row.name)
                at = change(primary, row, base, comparison.margins, seeds, level)
                if at and (before is None or before.verdict == "not settled"):
                    found[row.name] = at
            found = _adjusted(found, comparison.looks)
    else:
        found = _adjusted(found)
    # A recipe that has fewer seeds than the first look, as in a run that was broken off, is not compared.
    others = [{name: each for name, each in row.changes.items() if name != primary.name} for row in rows]
    return [
        replace(row, changes={**rest, primary.name: found[row.name]} if row.name in found else rest)
        for row, rest in zip(rows, others, strict=True)
    ]


def _looked_at(row: Row, seeds: Collection[int]) -> bool:
    """Whether `row` was run with all of `seeds`, however that ended."""
    return {ending.seed for ending in row.endings if ending.status != NOT_RUN}.issuperset(seeds)


def _adjusted(changes: Mapping[str, Change], planned: Sequence[int] = ()) -> dict[str, Change]:
    """`changes` by recipe, with their p-values adjusted for how many recipes are compared and how many looks are `planned`,
    and with what would settle those that are not."""
    level, times = looks.level(planned), max(1, len(planned))
    p = {name: times * found.p for name, found in changes.items() if found.p is not None}
    adjusted = dict(zip(p, stats.holm(list(p.values())).tolist(), strict=True))
    # Holm's level for the next one: that for all that are not shown to differ.
    alpha = (1 - level) / max(1, sum(each > 1 - stats.LEVEL for each in adjusted.values()))

    def decided(found: Change, adjusted_p: float) -> Change:
        found = replace(found, adjusted_p=adjusted_p)
        if found.verdict != "not settled" or not found.noise:
            return found
        return replace(found, settling=stats.settling(found.noise, found.margin, alpha, level))

    return {name: decided(found, adjusted[name]) if name in adjusted else found for name, found in changes.items()}


def _ranked(rows: Iterable[Row], primary: Metric | None) -> list[Row]:
    def key(row: Row) -> tuple[bool, int, float]:
        value = 0.0
        if primary is not None:
            figure = row.figures.get(primary.name)
            value = math.inf if figure is None else -figure.value if primary.better == "higher" else figure.value
        return not row.is_baseline, 0 if row.ok else 1 if row.succeeded else 2, value

    return sorted(rows, key=key)
