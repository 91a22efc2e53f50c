"""Scores by lm-eval: a series of metrics, one for each task and metric of its that was measured."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from bench.metrics.metric import Direction, Metric, MetricSeries, Record, Summary, at, last

PREFIX = "lm_eval_"

_KNOWN: dict[str, tuple[str, Direction]] = {
    **dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mcc", "contains"),
        ("fraction", "higher"),
    ),
    "perplexity": ("tokens", "lower"),
    "word_perplexity": ("words", "lower"),
    "byte_perplexity": ("byte values", "lower"),
    "bits_per_byte": ("bits", "lower"),
    "brier_score": ("points", "lower"),
    "ter": ("points", "lower"),
}
"""Unit and direction of metrics by lm-eval's names; any other is in points, of which more are better."""


def column(task: str, metric: str, filter_: str) -> str:
    """The name, without :data:`PREFIX`, of the metric called `metric` of a task's answers as `filter_` reads them."""
    parts = [task, *([] if filter_ == "none" else [filter_]), metric]
    return re.sub("[^a-z0-9]+", "_", "_".join(parts).lower())


def lower_is_better(metric: str) -> bool:
    """Whether reports take a lower value of lm-eval's `metric` for better."""
    return _KNOWN.get(metric, ("points", "higher"))[1] == "lower"


@functools.cache
def score(name: str) -> Metric:
    """The metric of this name, which begins with :data:`PREFIX` and ends with lm-eval's name of the metric."""
    own = name.removeprefix(PREFIX)
    known = max((each for each in _KNOWN if own.endswith(f"_{each}")), key=len, default="")
    unit, better = _KNOWN.get(known, ("points", "higher"))
    return Metric(
        name, f"lm-eval {own.replace('_', ' ')}", unit, better, "quality",
        "as lm-eval computes it (`measure.quality`), of the model after the last stage", last("lm_eval", "scores", own, "value"),
        summary=Summary(order=5),
    )  # fmt: skip


def _named(name: str) -> Metric | None:
    return score(name) if re.fullmatch(f"{PREFIX}[a-z0-9_]+", name) else None


def _measured(records: Iterable[Record]) -> list[Metric]:
    return [
        score(PREFIX + name)
        for name in dict.fromkeys(name for record in records for name in at(record, "lm_eval", "scores") or ())
    ]


LM_EVAL = MetricSeries("lm_eval", _named, _measured)
