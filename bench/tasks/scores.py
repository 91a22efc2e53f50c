"""Scores of a model's answers, each with a value for each item, so that two models compare item by item.

A score that is a mean over items has the items' own. One that is not, such as F1 over all entities or a correlation, has
the jackknife's pseudo-values: how much the score changes without the item. Their mean is the score, and their spread gives
its standard error (Efron and Stein, "The jackknife estimate of variance", 1981, https://doi.org/10.1214/aos/1176345462).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.tasks.base import Quality

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Score:
    """A score, and what each item adds to it: the mean of ``items`` is ``value``. Empty where that is not known."""

    value: float
    items: tuple[float, ...] = ()


def mean(items: Sequence[float]) -> Score:
    """The mean over items. Whole numbers stay whole: a record is half as long so."""
    return Score(math.fsum(items) / len(items), tuple(items))


def jackknifed(sums: Array, statistic: Callable[[Array], Array]) -> Score:
    """A `statistic` of sums over items. `sums` is what each item adds, ``[items, terms]``.

    `statistic` takes sums ``[any, terms]`` and gives the score of each row.
    """
    import numpy as np

    total = sums.sum(0)
    value = float(statistic(total[None])[0])
    if len(sums) < 2:
        return Score(value, (value,) * len(sums))
    without = statistic(total - sums)
    items = value + (len(sums) - 1) * (without.mean() - without)
    return Score(value, tuple(np.where(np.isfinite(items), items, value).tolist()))


def quality(
    scores: Mapping[str, Score], primary: str, predictions: Sequence[int] = (), extra: Mapping[str, Any] | None = None
) -> Quality:
    """What a task's ``evaluate`` returns: all scores, and the items' values of the `primary` one."""
    metrics = {name: score.value for name, score in scores.items()}
    return Quality(metrics, tuple(predictions), scores[primary].items, extra or {})


def of_tokens(
    nats: Sequence[float], hits: Sequence[int], tokens: Sequence[int], sizes: Sequence[int], primary: str
) -> dict[str, Score]:
    """Scores of predicted tokens, from each item's `nats`, right tokens, tokens, and bytes that they spell.

    An item's part in the bits per byte is its bits over the mean bytes of an item. The others are ratios of sums, of which
    the `primary` one alone has items' parts.
    """
    import numpy as np

    total, count, size = math.fsum(nats), sum(tokens), sum(sizes)
    try:
        perplexity = math.exp(total / count)
    except OverflowError:
        perplexity = math.inf
    share = len(sizes) / (math.log(2) * size)
    found = {
        "bits_per_byte": Score(total / math.log(2) / size, tuple(each * share for each in nats)),
        "perplexity": Score(perplexity),
        "token_accuracy": Score(sum(hits) / count),
    }
    statistics: dict[str, Callable[[Array], Array]] = {
        "perplexity": lambda sums: np.exp(sums[:, 0] / sums[:, 2]),
        "token_accuracy": lambda sums: sums[:, 1] / sums[:, 2],
    }
    if primary in statistics and math.isfinite(perplexity):
        sums = np.array([nats, hits, tokens], dtype=np.float64).T
        found[primary] = Score(found[primary].value, jackknifed(sums, statistics[primary]).items)
    return found
