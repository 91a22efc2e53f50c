"""What the tests of all kinds that read share: data of one's own, recipes on tiny models, and a plain loop to compare with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench.machine import machine
from bench.models.registry import open_model
from bench.plan import plan
from bench.suite import suite
from bench.tasks.base import Task
from bench.tasks.registry import check_table, open_task
from bench.testing import jobs


def jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def own(data: Path, kind: str, **keys: Any) -> Task:
    """The data as a task of its kind."""
    return open_task(check_table({"kind": kind, "data": str(data), **keys}), data.parent)


def problem(data: Path, kind: str, **keys: Any) -> str:
    """The one problem that the data has."""
    (found,) = own(data, kind, **keys).problems()
    return found


def refused(text: str, model: Path | str, task: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Why planning refuses a recipe."""
    asked = suite.of(
        {
            "model": str(model),
            "task": dict(task),
            "recipes": {"it": text},
            "budget": {"max_length": 64},
            "measure": {"latency": [[1, 16]]},
        }
    )
    (cell,) = plan.make(asked, folder, machine.look("cpu", 1)).cells
    return cell.refused


def run(text: str, model: Path, table: Mapping[str, Any], folder: Path, **keys: Any) -> list[dict[str, Any]]:
    """Plan and run a recipe with inference and every measure; the records."""
    assert refused(text, model, table, folder) == ()
    keys = {"budget": {"steps": 4, "batch_size": 4, "max_length": 64}, "serve": True} | keys
    status, reason, records = jobs.run(text, model, folder, task=check_table(dict(table)), **keys)
    assert (status, reason) == ("ok", "")
    return records


def loaded(model: Path, task: Task) -> tuple[torch.nn.Module, Any]:
    torch.manual_seed(0)
    found, tokenizer = open_model(str(model), Path()).load(*task.model_options())
    return found.eval(), tokenizer


def loss(
    task: Task, model: torch.nn.Module, tokenizer: Any, split: Any = "test", batch_size: int = 4, max_length: int = 64
) -> float:
    """The mean of the criterion over a split, by the weights of batches."""
    total = weight = 0.0
    with torch.no_grad():
        for batch in task.batches(split, tokenizer, batch_size=batch_size, max_length=max_length):
            total += float(task.criterion(model(**batch.inputs), batch)) * batch.weight
            weight += batch.weight
    return total / weight


def alike_in_any_batch(task: Task, model: torch.nn.Module, tokenizer: Any, max_length: int = 64) -> Any:
    """The quality, which is the same for batches of any size; and the parts of items have it as their mean."""
    found = [task.evaluate(model, tokenizer, batch_size=size, max_length=max_length) for size in (1, 3, 8)]
    for each in found[1:]:
        assert each.metrics.keys() == found[0].metrics.keys() == set(task.metrics)
        for name, value in each.metrics.items():
            assert abs(value - found[0].metrics[name]) <= 1e-5 * max(1.0, abs(value)), name
    correct = found[0].correct
    assert (
        abs(sum(correct) / len(correct) - found[0].metrics[task.primary]) < 1e-4 * found[0].metrics[task.primary] + 1e-9
    )
    assert len(correct) == len(task.texts("test"))  # type: ignore[attr-defined]
    return found[0]
