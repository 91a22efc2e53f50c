"""The data that a method looks at before it compresses: which, how much of it, and what was really used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import MinLen

from bench.plan.context import PlanContext
from bench.recipe.declarations import Samples
from bench.recipe.method import Transform
from bench.tasks.base import Task, TaskError, on_device
from bench.tasks.calibration import TRAIN, Data, open_data
from methods._models import tokens

if TYPE_CHECKING:
    from bench.stage.work import Work
    from bench.tasks.base import Batch

DataName = Annotated[str, MinLen(1), 'one of "train", a task\'s name, a file beside the suite']


@dataclass(frozen=True)
class Calibration:
    """So many items of the data of this name."""

    samples: int
    data: str = TRAIN

    def batches(self, work: Work, *, batch_size: int | None = None, shuffle: bool = True) -> Iterator[Batch]:
        """Batches of the data, on the device: endless and shuffled, the same ones each time in a stage, or one pass in order.

        What was taken of them is in ``work.calibration``, which goes into the record.
        """
        import torch

        source = self._source(work)
        batches = source.batches(
            "train",
            work.tokenizer,
            batch_size=batch_size or work.budget.batch_size,
            max_length=work.budget.max_length,
            generator=torch.Generator().manual_seed(work.seed) if shuffle else None,
        )
        about = {"name": source.name, "fingerprint": source.fingerprint()}
        items: set[int] = set()
        samples = tokens = 0
        for batch in on_device(batches, work.device):
            items.update(batch.items)
            samples += batch.samples
            tokens += batch.tokens
            work.calibration = {**about, "samples": samples, "items": len(items), "tokens": tokens}
            yield batch

    def _source(self, work: Work) -> Data:
        """The data, read once in a stage."""
        if self.data == TRAIN:
            return work.task
        key = f"calibration {self.data}"
        if key not in work.state:
            work.state[key] = open_data(self.data, work.suite_folder)
        return work.state[key]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Calibrated(Transform):
    """Looks at ``samples`` items of ``data`` before it compresses: whole batches, as many as these fit into.

    The data are the training items of the recipe's own task, those of another registered one, or the texts of a file.
    """

    data: DataName = field(default=TRAIN, kw_only=True)
    samples: Samples = field(default=128, kw_only=True)

    @property
    def calibrates(self) -> bool:
        """Whether its other arguments leave something to look at data for."""
        return True

    @property
    def calibration(self) -> Calibration:
        """What it looks at."""
        return Calibration(self.samples, self.data)

    def reads(self, suite_folder: Path) -> Mapping[str, str]:
        """The data, where they are not the task's own."""
        if not self.calibrates or self.data == TRAIN:
            return {}
        try:
            return {f"calibration {self.data}": open_data(self.data, suite_folder).fingerprint()}
        except TaskError:  # it is refused, and `problems` says why
            return {f"calibration {self.data}": "cannot be read"}

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The data must be there, be texts as the task's are, and be as many as are asked for."""
        yield from super().problems(context)
        if self.calibrates:
            yield from tokens(context)
        if not self.calibrates or self.data == TRAIN:
            return
        try:
            source = open_data(self.data, context.suite_folder)
        except TaskError as error:
            yield f"data: {error}"
            return
        if not context.task.reads_texts or (isinstance(source, Task) and not source.reads_texts):
            yield f'data: items of {self.data} are not what a {context.task.kind} task gives the model; use data="{TRAIN}"'
        elif problems := source.problems():
            yield from (f"data: {problem}" for problem in problems)
        elif (items := source.training_items()) is not None and items < self.samples:
            yield f"samples: {self.data} has {items} items, and {self.samples} are asked for; lower it, or give more data"
