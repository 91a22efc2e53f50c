"""Results of lm-eval: the file ``results_….json`` that it writes.

Source: ``lm_eval/result_schema.py`` and ``lm_eval/loggers/evaluation_tracker.py`` of lm-eval 0.4.13.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.metrics.families.lm_eval import PREFIX, column, score
from reports.exchange.base import Foreign, Part, Value

FORM = "lm-eval (results, and config, configs or versions)"
MEND = "this version reads what lm-eval 0.4 writes; evaluate again with it"


def fits(found: Mapping[str, Any]) -> bool:
    """Whether it has results, and what lm-eval says beside them."""
    return "results" in found and bool({"config", "configs", "versions"} & found.keys())


def read(found: Part) -> list[Foreign]:
    """A row for each task, and for each group of tasks.

    Raises:
        RecordError: it has another shape.
    """
    config, results = found.maybe("config"), found.part("results")
    date = found.number("date")
    return [
        Foreign(
            file=found.file.name,
            tool="lm-eval",
            version=found.text("lm_eval_version"),
            date="" if date is None else datetime.datetime.fromtimestamp(date, datetime.UTC).date().isoformat(),
            name=task,
            model=found.text("model_name") or _model(config) or config.text("model"),
            task=task + _shots(found, task),
            machine=config.text("device"),
            values=tuple(_values(task, results.part(task))),
        )
        for task in results
    ]


def _values(task: str, results: Part) -> Iterator[Value]:
    for key, found in results.found.items():
        if isinstance(found, bool) or not isinstance(found, int | float) or key == "sample_len":
            continue
        metric, comma, filter_ = key.partition(",")
        if not comma:
            raise results.wrong(key, "has no filter behind a comma, as before lm-eval 0.4")
        if not metric.endswith("_stderr") and (value := results.number(key)) is not None:
            ours = score(PREFIX + column(task, metric, filter_))
            yield Value(metric if filter_ == "none" else key, value, ours.unit, ours.name)


def _shots(found: Part, task: str) -> str:
    shots = found.maybe("n-shot").number(task)
    return "" if shots is None else f", {shots:.0f}-shot"


def _model(config: Part) -> str:
    arguments = config.found.get("model_args")
    if isinstance(arguments, dict):
        return config.part("model_args").text("pretrained")
    named = re.search(r"(?:^|,)pretrained=([^,]+)", config.text("model_args"))
    return named[1] if named else ""
