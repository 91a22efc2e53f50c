"""Scores by lm-eval of a model that is in memory: of the tasks that :mod:`bench.tasks.lm_eval` finds."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics.families.lm_eval import PREFIX, column, lower_is_better
from bench.tasks.lm_eval import LmEvalError, below, load, quiet

if TYPE_CHECKING:
    import torch


Note = Callable[[str, str], None]
"""Told why a metric is absent, and its name."""


def evaluate(
    model: torch.nn.Module, tokenizer: Any, names: Sequence[str], suite_folder: Path, *, batch_size: int, note: Note
) -> dict[str, Any]:
    """Score `model`, a decoder in evaluation mode, and leave it as it is. ``scores`` are by their columns' names in reports.

    A score's ``items`` are what each item adds to it, in the order of the task's documents, and their mean is the score; empty
    where lm-eval has no number for each, or combines them in another way. `note` is told of scores that are left out.

    Raises:
        LmEvalError: the data are neither here nor reachable, or `model` is none of transformers'.
    """
    if not hasattr(model, "device"):
        raise LmEvalError(f"lm-eval takes one model of transformers, and this is {type(model).__name__}")
    from importlib import metadata

    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with quiet(), contextlib.chdir(suite_folder), _as_it_is(model):
        manager, tasks = load(names, Path.cwd())
        scorer = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        found = simple_evaluate(scorer, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    return {"version": metadata.version("lm_eval"), "scores": dict(_scores(found, note))}


def _scores(found: Mapping[str, Any], note: Note) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each task and group that is in no other, each metric."""
    groups: Mapping[str, Sequence[str]] = found["group_subtasks"]
    grouped = {name for each in groups for name in below(groups, each)}
    for task, results in found["results"].items():
        if task in grouped:
            continue
        leaves = [name for name in (*below(groups, task), task) if name in found["samples"]]
        for key, value in results.items():
            metric, comma, filter_ = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            name = column(task, metric, filter_)
            if (found["higher_is_better"].get(leaves[0]) or {}).get(metric) is lower_is_better(metric):
                note(f"lm-eval and methodbench do not agree whether more of `{metric}` is better", PREFIX + name)
                continue
            yield (
                name,
                {
                    "task": task,
                    "metric": metric,
                    "filter": filter_,
                    "shots": found["n-shot"].get(leaves[0]),
                    "value": float(value),
                    "items": _items(found["samples"], leaves, metric, filter_, float(value)),
                },
            )


def _items(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], tasks: Sequence[str], metric: str, filter_: str, value: float
) -> list[float]:
    """What each document adds to `value`, in their order."""
    rows = [
        row.get(metric)
        for task in tasks
        for row in sorted(samples[task], key=lambda row: row["doc_id"])
        if row["filter"] == filter_
    ]
    numbers = [float(row) for row in rows if isinstance(row, int | float) and math.isfinite(row)]
    mean = math.fsum(numbers) / max(1, len(numbers))
    return numbers if len(numbers) == len(rows) and math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9) else []


@contextlib.contextmanager
def _as_it_is(model: torch.nn.Module) -> Iterator[None]:
    """Inside, `model` cannot be told to tie its weights, as lm-eval does: a compressed one may have untied them."""
    model.tie_weights = lambda *given, **options: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del model.tie_weights
