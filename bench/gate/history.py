"""A metric over results folders, with change points. Advice only: docs/history.md says what it can and cannot tell."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.compare.compare import Comparison, Comparisons
from bench.compare.rows import Row
from bench.gate.recorded import why_missing
from bench.gate.stored import commit, differing, recorded, settings
from bench.metrics import registry
from bench.metrics.metric import Metric, MetricError
from bench.recipe.errors import nearest
from bench.record.errors import RecordError

if TYPE_CHECKING:
    import numpy as np

RATE = 0.01
"""Probability, at most, that a change point is found in values whose order means nothing."""

FEWEST = 10
"""Values without which none can be found at this rate: two halves of ten can be told apart by chance in 2 of 252 ways,
those of nine in 2 of 126."""

_PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Point:
    """One folder's value of a metric: the mean over seeds, in the metric's unit; None where ``reason`` says why.

    ``commit`` is empty where it is not recorded.
    """

    folder: str
    commit: str
    started: str
    value: float | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The commit, shortened, or else the folder's name."""
        found, changed, _ = self.commit.partition("+")
        return f"{found[:10]}{changed and '+'}" or Path(self.folder).name


@dataclass(frozen=True)
class ChangePoint:
    """From the point ``at`` on, the values are others. ``before`` and ``after`` are the means of the values up to the
    neighbouring change points."""

    at: int
    before: float
    after: float
    p_value: float


@dataclass(frozen=True)
class Course:
    """One metric of one recipe over all folders. ``reason`` says why no change point was looked for."""

    recipe: str
    metric: str
    title: str
    unit: str
    family: str
    better: Literal["higher", "lower"]
    points: tuple[Point, ...]
    changes: tuple[ChangePoint, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class History:
    """All courses. ``notes`` say what else changed from one folder to the next, such as the machine."""

    courses: tuple[Course, ...]
    notes: tuple[str, ...]


def history(folders: Sequence[Path], metrics: Sequence[str] = (), recipe: str | None = None) -> History:
    """The courses of `metrics` over `folders`, ordered by when their runs began, of recipes that match the pattern `recipe`.

    Without `metrics`, of those that a report's short table has.

    Raises:
        RecordError: a folder has no records, or no recipe matches. MetricError: there is no such metric.
    """
    named = [_metric(name) for name in metrics]
    read = [_Folder.read(folder) for folder in dict.fromkeys(folders)]
    read.sort(key=lambda each: each.started)
    subjects = list(dict.fromkeys(key for each in read for key in each.comparisons))
    courses: list[Course] = []
    recipes: dict[str, None] = {}
    for subject in subjects:
        comparisons = [each.comparisons.get(subject) for each in read]
        newest = next(each for each in reversed(comparisons) if each)
        where = "" if len(subjects) == 1 else f" ({', '.join(subject)})"
        by_name = [{row.name: row for row in each.rows} if each else {} for each in comparisons]
        for name in dict.fromkeys(name for rows in reversed(by_name) for name in rows):
            recipes[name] = None
            if recipe is None or fnmatch.fnmatchcase(name, recipe):
                for metric in named or newest.mains:
                    points = tuple(
                        _point(each, rows.get(name), metric) for each, rows in zip(read, by_name, strict=True)
                    )
                    if named or any(point.value is not None for point in points):
                        courses.append(_course(name + where, metric, points))
    if recipe is not None and not fnmatch.filter(recipes, recipe):
        raise RecordError(f"--recipe '{recipe}' matches no recipe; there are: {', '.join(recipes)}")
    return History(tuple(courses), tuple(_notes(read)))


def change_points(values: Sequence[float]) -> list[ChangePoint]:
    """Where the mean of `values` changes, in their order.

    The place where the means before and after it differ most, in units of their common error, is a change point if values
    in a random order have such a place with probability :data:`RATE` at most: a permutation test, which asks for no
    distribution. Each side is then searched in the same way (binary segmentation: Scott and Knott 1974; Vostrikova 1981).
    At least two values are on each side, so that no outlier is a change.
    """
    found = dict(sorted(_split(values, 0)))
    ends = [0, *found, len(values)]
    means = [_mean(values[start:end]) for start, end in itertools.pairwise(ends)]
    return [
        ChangePoint(at, before, after, found[at])
        for at, (before, after) in zip(found, itertools.pairwise(means), strict=True)
    ]


def _split(values: Sequence[float], start: int) -> Iterator[tuple[int, float]]:
    """Each change point in `values`, which begin at `start` of all, with its p-value."""
    if len(values) < FEWEST or min(values) == max(values):
        return
    import numpy as np
    from scipy.stats import permutation_test

    data = np.asarray(values, dtype=float)
    data = (data - data.mean()) / data.std()

    def largest(data: np.ndarray, axis: int = -1) -> np.ndarray:
        found: np.ndarray = _jumps(np.moveaxis(data, axis, -1)).max(axis=-1)
        return found

    test = permutation_test(
        (data,), largest, permutation_type="pairings", vectorized=True, n_resamples=_PERMUTATIONS,
        alternative="greater", rng=np.random.default_rng(0),
    )  # fmt: skip
    if test.pvalue <= RATE:
        at = int(_jumps(data).argmax()) + 2
        yield start + at, float(test.pvalue)
        yield from _split(values[:at], start)
        yield from _split(values[at:], start + at)


def _jumps(data: np.ndarray) -> np.ndarray:
    """For each place with at least two values on both sides, how far the means differ, in units of the error of that if
    the values were of one mean and of variance 1; `data` has mean 0, along the last axis."""
    import numpy as np

    n = data.shape[-1]
    before = np.arange(2, n - 1)
    sums = np.cumsum(data, axis=-1)[..., 1 : n - 2]
    jumps: np.ndarray = np.abs(sums) / np.sqrt(before * (n - before) / n)
    return jumps


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class _Folder:
    path: Path
    commit: str
    started: str
    comparisons: Mapping[tuple[str, str], Comparison]
    settings: Mapping[str, set[str]]

    @classmethod
    def read(cls, path: Path) -> _Folder:
        records = recorded(path)
        found = Comparisons(records)
        last = found.runs[-1]
        return cls(
            path,
            commit(last),
            last.started or "",
            {(each.model, each.task): each for each in found},
            settings(records),
        )


def _metric(name: str) -> Metric:
    try:
        return registry.metric(name)
    except KeyError:
        raise MetricError(f"no metric is called `{name}`{nearest(name, registry.metrics())}") from None


def _point(folder: _Folder, row: Row | None, metric: Metric) -> Point:
    point = Point(str(folder.path), folder.commit, folder.started, None)
    if row and metric.name in row.figures:
        return replace(point, value=row.figures[metric.name].value)
    return replace(point, reason=why_missing(row, metric.name))


def _course(recipe: str, metric: Metric, points: tuple[Point, ...]) -> Course:
    course = Course(recipe, metric.name, metric.title, metric.unit, metric.family, metric.better, points)
    places = [(at, point.value) for at, point in enumerate(points) if point.value is not None]
    if len(places) < FEWEST:
        count = f"{len(places)} value{'' if len(places) == 1 else 's'}"
        return replace(course, reason=f"{count}: no change point is looked for in fewer than {FEWEST}")
    found = change_points([value for _, value in places])
    return replace(course, changes=tuple(replace(each, at=places[each.at][0]) for each in found))


def _notes(folders: Sequence[_Folder]) -> Iterator[str]:
    for before, after in itertools.pairwise(folders):
        for name, old, new in differing(before.settings, after.settings):
            yield f"{name} changed from {old} to {new} between {before.path} and {after.path}"
