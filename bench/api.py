"""What a package with a method, a task, a kind of task, a model or a metric of its own imports: docs/write-a-….md show how.

It registers them under the entry points ``methodbench.methods``, ``.tasks``, ``.task_kinds``, ``.models`` and ``.metrics``.
Nothing here imports torch
before it is asked for: :class:`Work`, :class:`Training`, :func:`evaluating` and :mod:`architecture` do, so import these
inside the hooks or for type checkers alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.metrics.metric import (
    Metric,
    MetricError,
    MetricSeries,
    Path,
    Summary,
    at,
    largest,
    last,
    last_training,
    of_method,
    of_task,
    steady,
    total,
)
from bench.models.base import Model, ModelError
from bench.models.structure import Structure
from bench.plan.context import PlanContext
from bench.recipe.declarations import Axis, Broken, Fact, Samples, Spread, Trait
from bench.recipe.errors import RecipeError, Refusal
from bench.recipe.method import Modifier, Trainer, Transform
from bench.stage.evidence import Claim, Snapshot, digest, named_tensors
from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Task, TaskError
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, jackknifed, mean, quality
from bench.tasks.table import DataTable, PairTable, TextTable
from bench.tasks.texts import TextTask

if TYPE_CHECKING:
    from bench.models import architecture
    from bench.models.modes import evaluating
    from bench.stage.loop import ComputeGradients, ComputeLoss, Criterion, Training, Update
    from bench.stage.work import Work
else:
    _WITH_TORCH = {
        "ComputeGradients": "bench.stage.loop",
        "ComputeLoss": "bench.stage.loop",
        "Criterion": "bench.stage.loop",
        "Training": "bench.stage.loop",
        "Update": "bench.stage.loop",
        "Work": "bench.stage.work",
        "architecture": "bench.models",
        "evaluating": "bench.models.modes",
    }

    def __getattr__(name: str) -> Any:
        if name not in _WITH_TORCH:
            raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
        import importlib

        module = _WITH_TORCH[name]
        importlib.import_module(f"{module}.{name}" if name == "architecture" else module)
        return getattr(importlib.import_module(module), name)


__all__ = [
    "Answers",
    "Axis",
    "Batch",
    "Broken",
    "Chance",
    "Claim",
    "ComputeGradients",
    "ComputeLoss",
    "Criterion",
    "DataTable",
    "Fact",
    "Item",
    "ItemTask",
    "Metric",
    "MetricError",
    "MetricSeries",
    "Model",
    "ModelError",
    "Modifier",
    "PairTable",
    "Path",
    "PlanContext",
    "Quality",
    "RecipeError",
    "Refusal",
    "Retention",
    "Row",
    "Samples",
    "Score",
    "Snapshot",
    "Spread",
    "Structure",
    "Summary",
    "Task",
    "TaskError",
    "TextTable",
    "TextTask",
    "Trainer",
    "Training",
    "Trait",
    "Transform",
    "Update",
    "Work",
    "architecture",
    "at",
    "digest",
    "evaluating",
    "jackknifed",
    "largest",
    "last",
    "last_training",
    "mean",
    "named_tensors",
    "of_method",
    "of_task",
    "quality",
    "steady",
    "total",
]
