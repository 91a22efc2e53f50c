"""What a package with a method, a task or a model of its own imports; ``docs/write-a-method.md`` shows how.

It registers them under the entry points ``methodbench.methods``, ``.tasks`` and ``.models``. Nothing here imports torch
before it is asked for: :class:`Work`, :class:`Training`, :func:`evaluating` and :mod:`architecture` do, so import these
inside the hooks or for type checkers alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.metrics.metric import Metric
from bench.models.base import Model, ModelError
from bench.models.structure import Structure
from bench.plan.context import PlanContext
from bench.recipe.declarations import Axis, Broken, Fact, Samples, Spread, Trait
from bench.recipe.errors import RecipeError, Refusal
from bench.recipe.method import Modifier, Trainer, Transform
from bench.stage.evidence import Claim, Snapshot, digest, named_tensors
from bench.tasks.base import Batch, Quality, Task, TaskError

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
    "Axis",
    "Batch",
    "Broken",
    "Claim",
    "ComputeGradients",
    "ComputeLoss",
    "Criterion",
    "Fact",
    "Metric",
    "Model",
    "ModelError",
    "Modifier",
    "PlanContext",
    "Quality",
    "RecipeError",
    "Refusal",
    "Samples",
    "Snapshot",
    "Spread",
    "Structure",
    "Task",
    "TaskError",
    "Trainer",
    "Training",
    "Trait",
    "Transform",
    "Update",
    "Work",
    "architecture",
    "digest",
    "evaluating",
    "named_tensors",
]
