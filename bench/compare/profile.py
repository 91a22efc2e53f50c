"""Performance profiles: on what share of tasks a recipe costs at most so many times what the cheapest one does.

Source: Dolan and Moré, Benchmarking optimization software with performance profiles, Mathematical Programming 91 (2002).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.compare.compare import Comparison
from bench.compare.rows import Row
from bench.metrics.metric import Metric


@dataclass(frozen=True)
class Subject:
    """What profiles take from a comparison.

    ``started`` is when its run was. ``recipes`` says which were run, by name. ``metrics`` are the costs of its short table, and
    ``costs`` has each recipe's, as :func:`costs` gives them, both by the metric's name.
    """

    model: str
    task: str
    started: str
    recipes: Mapping[str, str]
    metrics: Mapping[str, Metric]
    costs: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, comparison: Comparison) -> Subject:
        """That of `comparison`."""
        return cls(
            comparison.model,
            comparison.task,
            comparison.started,
            {row.name: row.recipe for row in comparison.rows},
            {metric.name: metric for metric in comparison.costs},
            {metric.name: costs(comparison, metric) for metric in comparison.costs},
        )


@dataclass(frozen=True)
class Profile:
    """One metric over ``tasks``, which are models on tasks. ``ratios`` has for each recipe, in order, how many times the
    cheapest recipe's cost its own is; infinity where it did not do the task."""

    metric: Metric
    tasks: tuple[str, ...]
    ratios: Mapping[str, tuple[float, ...]]

    def share(self, recipe: str, within: float) -> float:
        """The share of tasks on which `recipe` costs at most `within` times what the cheapest one does."""
        return bisect_right(self.ratios[recipe], within) / len(self.tasks)


def costs(comparison: Comparison, metric: Metric) -> dict[str, float]:
    """What each recipe costs in `metric`: its figure, or one over it where higher is better.

    Infinity where it did not do the task: it did not end ok, its quality is shown to be worse than the baseline's, or there is
    no figure. So a recipe gains nothing by a model that is cheap and bad.
    """
    return {row.name: _cost(row, metric, comparison.primary) for row in comparison.rows}


def _cost(row: Row, metric: Metric, primary: Metric | None) -> float:
    figure = row.figures.get(metric.name)
    change = row.changes.get(primary.name) if primary else None
    if not row.ok or figure is None or figure.value <= 0 or (change and change.verdict == "worse"):
        return math.inf
    return figure.value if metric.better == "lower" else 1 / figure.value


def profiles(subjects: Iterable[Subject]) -> list[Profile]:
    """The profiles of each cost over the models and tasks that the same recipes were run on, where there are at least two.

    Of several runs of a model on a task, the latest counts.
    """
    latest: dict[tuple[frozenset[tuple[str, str]], str, str], Subject] = {}
    for subject in sorted(subjects, key=lambda each: each.started):
        latest[frozenset(subject.recipes.items()), subject.model, subject.task] = subject
    groups: dict[frozenset[tuple[str, str]], list[Subject]] = {}
    for (recipes, *_), subject in latest.items():
        groups.setdefault(recipes, []).append(subject)
    return [
        profile
        for group in groups.values()
        if len(group) > 1
        for metric in group[0].metrics.values()
        if all(metric.name in each.costs for each in group) and (profile := _profile(metric, group))
    ]


def _profile(metric: Metric, group: Sequence[Subject]) -> Profile | None:
    costs = [each.costs[metric.name] for each in group]
    cheapest = [min(each.values()) for each in costs]
    if all(map(math.isinf, cheapest)):
        return None
    ratios = {
        name: tuple(sorted(_ratio(each[name], least) for each, least in zip(costs, cheapest, strict=True)))
        for name in group[0].recipes
    }
    return Profile(metric, tuple(f"{each.model} · {each.task}" for each in group), ratios)


def _ratio(cost: float, least: float) -> float:
    return math.inf if math.isinf(cost) else cost / least
