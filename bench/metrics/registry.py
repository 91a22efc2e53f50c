"""Every metric, found through the entry points ``methodbench.metrics``. Ours register the way anybody's do."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import get_args

from bench.metrics.metric import Family, Metric, MetricError, MetricSeries, Record, at
from bench.recipe.errors import nearest
from bench.recipe.registry import RegistryError, instances

GROUP = "methodbench.metrics"


@functools.cache
def metrics() -> Mapping[str, Metric]:
    """Those with fixed names, by name, family by family; :func:`metric` also knows those of a series.

    Raises:
        RegistryError: an entry point does not load, or two metrics have one name.
    """
    found = instances(GROUP, Metric)
    for name in found:
        for each in series().values():
            if each.named(name) is not None:
                raise RegistryError(f"the metric `{name}` has a name of the series `{each.name}`; give it another")
    families = get_args(Family)
    return dict(sorted(found.items(), key=lambda item: families.index(item[1].family)))


@functools.cache
def series() -> Mapping[str, MetricSeries]:
    """Every series of metrics, by name."""
    return instances(GROUP, MetricSeries)


def metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        KeyError: there is none.
    """
    known = metrics()
    if name in known:
        return known[name]
    for each in series().values():
        if found := each.named(name):
            return found
    raise KeyError(name)


def measured(records: Iterable[Record]) -> list[Metric]:
    """The metrics that `records` can hold: those with fixed names, then those of each series."""
    records = list(records)
    return [*metrics().values(), *(metric for each in series().values() for metric in each.measured(records))]


def unregistered(names: Iterable[str]) -> list[str]:
    """Of figures that a task or a method declares, those that no metric is registered for: a sentence each."""
    known = metrics()
    return [
        f"it declares `{name}`, and no metric of that name is registered{nearest(name, known)}; register one: "
        "docs/write-a-metric.md"
        for name in names
        if name not in known
    ]


def unknown(record: Record) -> set[str]:
    """Names of figures in `record` that no metric is registered for here."""
    places = (("quality", "metrics"), ("training", "figures"), ("transform", "figures"))
    return {name for place in places for name in at(record, *place) or {}} - metrics().keys()


def check_declared(names: Iterable[str], declared: Iterable[str], who: str, where: str) -> None:
    """See to it that all of `names` are `declared`. `who`, such as "the task mine returns", and `where` are for the error.

    Raises:
        MetricError: one is not declared.
    """
    for name in sorted(set(names) - set(declared)):
        raise MetricError(
            f"{who} `{name}` without declaring it: name it in {where}, and register a metric of that name "
            "(docs/write-a-metric.md)"
        )
