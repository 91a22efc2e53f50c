"""What exports to another runtime share. No torch until a hook runs; :mod:`methods.compression.export._shared.exported` has what is left of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from methods import _classes
from methods._models import tokens

if TYPE_CHECKING:
    import torch


class Runtime(Transform):
    """A model in another runtime's files, which is what a user would ship, and what a server would open."""

    adds = frozenset({"inference_only", "exported"})
    removes = frozenset({"adapter", "mergeable"})  # it is in the graph, beside what it was put on
    refuses = (
        ("quantized", 'the weights are quantized for torch; quantize in the runtime instead, as in `{name}("int8")`'),
    )

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It exports the plain forward pass of a classifier."""
        yield from tokens(context)
        if context.machine.device != "cpu":
            yield 'it is measured on the CPU; run the suite with device = "cpu"'
        if context.task.generates:
            yield f"it exports one forward pass, without the cache that a {context.task.kind} task decodes with"
        yield from _classes.one_tensor(context)
        yield from _classes.one_text(context)
        if any(method.virtual_tokens for stage in context.before for method in stage.methods):
            yield "learned tokens stand before each text, and the length of what is exported would not be the text's; take an adapter that stands beside layers, such as lora"

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """The files and the configuration."""
        model.save(folder)  # type: ignore[operator]
        return True

    def on_serve(self, model: torch.nn.Module, folder: Path) -> None:
        """Open the files, as a server would."""
        model.serve(folder)  # type: ignore[operator]
