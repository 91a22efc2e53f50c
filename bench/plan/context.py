"""What planning tells a method, which says whether it can run there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine.machine import Machine
from bench.models.structure import Structure
from bench.recipe.declarations import Fact
from bench.recipe.facts import facts_after
from bench.recipe.method import Trainer

if TYPE_CHECKING:
    from bench.models.base import Model
    from bench.recipe.recipe import Stage
    from bench.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class PlanContext:
    """Where a method would run: what came before it, beside what, on which machine, for which task and model."""

    before: tuple[Stage, ...]
    stage: Stage
    machine: Machine
    task: type[Task]  # which says what is asked of a kind of task
    model: str  # transformers' ``model_type``: "bert", "llama", ...
    batch_size: int
    steps: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the model as it was before the recipe
    suite_folder: Path = Path()  # the suite's folder: what its paths are relative to
    splits: frozenset[str] = frozenset({"train", "validation", "test"})  # of the task's, those that have items
    items: int | None = None  # how many training has; None where planning cannot tell, or there are plenty
    given: Model | None = None  # the model before the recipe
    structure: Structure = dataclasses.field(default_factory=Structure)  # and what is known of it
    max_length: int = 0  # tokens of an item, at most
    packing: bool = False  # whether several items of training are in a row, told apart by their positions

    @property
    def facts(self) -> frozenset[Fact]:
        """What is true of the model that arrives here."""
        return facts_after(self.before, self.given.facts() if self.given else frozenset())

    def fold(self, method: object) -> str:
        """What to do about the adapter that arrives, in a refusal's words, to have `method` run."""
        if "mergeable" in self.facts:
            return f"fold it first, as in `… >> merge >> {method}`"
        return f"it cannot be folded into the weights, so put `{method}` before it"

    @property
    def blocks(self) -> int | None:
        """How many blocks the model that arrives here has; None where planning cannot tell."""
        count: int | None = self.config.get("num_hidden_layers")
        for stage in self.before:
            count = stage.main.leaves_blocks(count)
        return count

    @property
    def trained(self) -> bool:
        """Whether a trainer ran before."""
        return any(isinstance(stage.main, Trainer) for stage in self.before)
