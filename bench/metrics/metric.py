"""What a metric is, and the ways in which most of them are read. How to write one: docs/write-a-metric.md.

A metric is read from a *path*: the records of a recipe's stages for one seed, first to last.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bench.metrics import units

Record = Mapping[str, Any]
Path = Sequence[Record]
Read = Callable[[Path], float | None]

Direction = Literal["higher", "lower"]
Family = Literal["quality", "throughput", "memory", "latency", "size", "compute", "time"]
About = Literal["model", "training", "compression"]


class MetricError(ValueError):
    """A metric, or what declares one, is wrong. The message names it and says how to mend it."""


@dataclass(frozen=True)
class Summary:
    """How a metric stands where there is room for few: in the ranking of a report and in its headline.

    The lower ``order`` is shown first; of metrics with the same, the first that was measured is shown alone. 0 is the
    place of what ranks the recipes: the primary metric of the task. ``heading``
    is the column's on a terminal of 80 columns, which leaves the metric out where it is empty. ``best`` is what the
    headline says of the recipe that is best, such as "trains fastest"; it says nothing where that is empty.
    """

    order: int
    heading: str = ""
    best: str = ""


@dataclass(frozen=True)
class Metric:
    """One figure.

    ``better`` is the direction; ``family`` groups metrics in reports, and those of quality are compared by differences,
    all others by ratios; ``formula`` says in words how the value comes from the record and what is inside its clock;
    ``read`` gives the value for a path in ``unit``, None where it was not measured. ``exact`` is what is counted rather
    than measured: one value has no noise. ``about`` is what the figure tells of: recipes that share their training do not
    differ in what is about ``training``, and what is about ``compression`` says nothing of a model that is not compressed.
    ``summary`` has it shown where there is room for few; without one it is shown in the full tables alone.

    Raises:
        MetricError: a name, direction, family or unit is not one that reports can show.
    """

    name: str
    title: str
    unit: str
    better: Direction
    family: Family
    formula: str
    read: Read
    exact: bool = False
    about: About = "model"
    summary: Summary | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise MetricError(
                f"metric `{self.name}`: a name is of lower case letters, digits and _, as in `exact_match`"
            )
        for key, known in (("better", Direction), ("family", Family), ("about", About)):
            if getattr(self, key) not in get_args(known):
                raise MetricError(
                    f"metric `{self.name}`: {key} is one of {', '.join(get_args(known))}, found {getattr(self, key)!r}"
                )
        if problem := units.problem(self.unit):
            raise MetricError(f"metric `{self.name}`: {problem}")

    def value(self, path: Path) -> float | None:
        """The value for `path`, None where it was not measured.

        Raises:
            MetricError: ``read`` failed, or gave what is no number.
        """
        try:
            value = self.read(path)
            return None if value is None else float(value)
        except Exception as error:
            raise MetricError(
                f"metric `{self.name}` cannot be read ({type(error).__name__}: {error}); mend its `read`, which gives a "
                "number, or None where something was not measured"
            ) from error


@dataclass(frozen=True)
class MetricSeries:
    """Metrics of one formula for each shape that was measured, such as ``latency_1x16`` and ``latency_8x64``.

    ``named`` gives the metric of a name, None where that is not one of the series. ``measured`` gives those that records
    can hold; it is told what
    :meth:`bench.record.reading.Nodes.sketch` gives of each.
    """

    name: str
    named: Callable[[str], Metric | None]
    measured: Callable[[Iterable[Record]], Iterable[Metric]]


# -- how metrics are read ------------------------------------------------------------------------------------


def of_task(name: str) -> Read:
    """Reads what the task's evaluation returned as `name`, after the last stage."""
    return last("quality", "metrics", name)


def of_method(name: str) -> Read:
    """Reads the figure that methods added as `name`: the sum over all stages that have it."""
    trained, applied = (total(stage, "figures", name) for stage in ("training", "transform"))

    def read(path: Path) -> float | None:
        found = [value for value in (trained(path), applied(path)) if value is not None]
        return math.fsum(found) if found else None

    return read


def last(*keys: str) -> Read:
    """Reads the value under `keys` of the last record."""
    return lambda path: at(path[-1], *keys) if path else None


def last_training(*keys: str) -> Read:
    """Reads the value under `keys` of the last training."""

    def read(path: Path) -> float | None:
        trained = [record for record in path if record.get("training")]
        return at(trained[-1], "training", *keys) if trained else None

    return read


def total(*keys: str) -> Read:
    """Reads the sum over all records of the values under `keys`, where these are lists of all that is in them."""

    def read(path: Path) -> float | None:
        values = _all(path, *keys)
        return math.fsum(math.fsum(value) if isinstance(value, list) else value for value in values) if values else None

    return read


def largest(*keys: str) -> Read:
    """Reads the largest over all records of the values under `keys`."""
    return lambda path: max(_all(path, *keys), default=None)


def steady(what: str) -> Read:
    """Reads `what` ("tokens", "samples") a second of the steady steps: those of all trainings after their warm-ups."""

    def read(path: Path) -> float | None:
        amounts: list[float] = []
        seconds: list[float] = []
        for record in path:
            if training := record.get("training"):
                steady = is_steady(training)
                amounts += itertools.compress(training[what], steady)
                seconds += itertools.compress(training["step_seconds"], steady)
        return rate(amounts, seconds) if math.fsum(seconds) > 0 else None

    return read


def is_steady(training: Record) -> list[bool]:
    """Of each step whether it is steady: in each process that took some, those after the warm-up are."""
    begins = [0, *(training.get("resumed") or ()), len(training["step_seconds"])]
    return [
        step >= begin + training["warmup"] for begin, end in itertools.pairwise(begins) for step in range(begin, end)
    ]


def rate(amounts: Sequence[float], seconds: Sequence[float]) -> float:
    """Total over total time: the only rate there is. Not a mean of rates, not a total over a mean time."""
    return math.fsum(amounts) / math.fsum(seconds)


def at(record: Record, *keys: str) -> Any:
    """The value under `keys`, each inside the one before; None where one is missing or null."""
    value: Any = record
    for key in keys:
        if not isinstance(value, Mapping) or value.get(key) is None:
            return None
        value = value[key]
    return value


def _all(path: Path, *keys: str) -> list[Any]:
    return [value for record in path if (value := at(record, *keys)) is not None]


def paired(record: Record, nodes: Mapping[str, Record]) -> Record:
    """`record` with the same stage's in one process under ``single_process``, where it was divided and `nodes` have that."""
    alone = nodes.get(record.get("single_process") or "")
    return {**record, "single_process": alone if alone is not None and alone.get("status") == "ok" else None}
