"""What all tasks on items share: one's own data or what a registered task reads, divided into splits, and what it is counted as."""

from __future__ import annotations

import abc
import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bench.recipe.errors import nearest
from bench.tasks.base import Task, TaskError
from bench.tasks.items import Choice, DividedItems, Found, Item, divide
from bench.tasks.own import OwnData
from bench.tasks.rows import SUFFIXES, Row
from bench.tasks.table import DataTable, Split
from bench.tasks.texts import Encoded, TextTask

if TYPE_CHECKING:
    from bench.models.structure import Structure

E = TypeVar("E", bound=Encoded)

_FORMAT = 1  # of the kept items; raised when the same rows would become other items
_SHARES: dict[Split, int] = {"train": 70, "test": 20}


class ItemTask(TextTask[DividedItems, E]):
    """A task on items, of one's own table or of what a registered subclass :meth:`read`\\ s.

    A kind says which :meth:`columns` of a table it reads, and how a row becomes an :meth:`item`.
    """

    reads: ClassVar[tuple[str, ...]] = SUFFIXES
    few_shot_by_answer: ClassVar[bool] = False
    """Whether ``few_shot`` counts the items of each answer, which are classes, and not all."""
    several_answers: ClassVar[bool] = False
    """Whether a text may have several answers, and is an item with each; else such a text is left out."""

    def __init__(self, table: DataTable | None = None, suite_folder: Path = Path()) -> None:
        super().__init__()
        self.given = table
        self.noted: Counter[str] = Counter()
        """What else is counted while items are read."""
        if table is None:
            return
        self.own = OwnData(table, suite_folder, self.columns(table))
        self.name = self.own.name
        self.group_by_length = table.group_by_length
        rank_by(self, table.metric)

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> Task:
        """One's own data as a task of this kind."""
        return cls(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def columns(cls, table: Any) -> tuple[str, ...]:
        """The columns that items are made of."""

    @abc.abstractmethod
    def item(self, row: Row) -> Item:
        """A row of one's own data as an item.

        Raises:
            TaskError: the row is wrong.
        """

    def read(self) -> Iterable[Item]:
        """Every item of a registered task.

        Raises:
            TaskError: the data cannot be used.
        """
        raise TaskError(f"{type(self).__qualname__}: a task without a table has a `read`")

    def found(self) -> Iterable[Found]:
        """Every item, with the split that it is in where the data says so.

        Raises:
            TaskError: the data cannot be used.
        """
        if self.given is None:
            yield from ((None, item) for item in self.read())
            return
        for split, row in self.own:
            yield split, self.item(row)

    def kept_as(self) -> str:
        """A name in the cache by all that the items come from; empty where they are not kept."""
        if self.given is None:
            return ""
        table = self.given.model_dump(exclude={"name", "metric", "group_by_length"})
        made_of = repr((_FORMAT, self.kind, self.own.fingerprint(), table))
        return f"items/{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.arrow"

    def divided(self) -> DividedItems:
        """Every item in its split.

        Raises:
            TaskError: the data cannot be used.
        """
        self.noted.clear()
        table = self.given
        given = (None, None, None) if table is None else (table.max_items, table.few_shot, table.near_duplicates)
        choice = Choice(*given, self.few_shot_by_answer, self.several_answers)
        return divide(self.found(), choice, self.kept_as(), self.noted)

    def problems(self) -> list[str]:
        """Say why the data cannot be used: a file or a row is wrong, or a split has no items."""
        try:
            data = self.data
        except TaskError as error:
            return [str(error)]
        if not len(data):
            return [f"{self.name}: no items are left, for every text has more than one answer"]
        return self.empty_splits()

    def empty_splits(self) -> list[str]:
        """Say which split that is needed has no items. An empty validation split is no problem: few methods use it."""
        return [
            f"{self.name}: {len(self.data)} different items are too few: none falls into {split}, "
            f"which gets about {share} % of all; add more"
            for split, share in _SHARES.items()
            if not len(self.texts(split))
        ]

    def training_items(self) -> int | None:
        """How many items training has."""
        return len(self.texts("train"))

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """transformers may have no head of the kind for a model of this type."""
        if self.generates or not structure.auto_classes or self.auto_class in structure.auto_classes:
            return ""
        return (
            f"transformers has no {self.auto_class} for a {model_type} model, so it cannot do a {self.kind} task; "
            "use an encoder, such as minilm"
        )

    # -- in a stage's own process ----------------------------------------------------------------------------

    def made_of(self, split: Split) -> str:
        """What token ids of `split` are kept by, beside the tokenizer."""
        return f"{self.kind} {split} {self.data.fingerprint}"


def rank_by(task: Task, metric: str | None) -> None:
    """Have recipes ranked by `metric`, if it is given, in this task alone.

    Raises:
        TaskError: it is none of the kind's.
    """
    if metric is None:
        return
    if metric not in task.metrics:
        known = ", ".join(task.metrics)
        raise TaskError(
            f"task.metric: {task.kind} has no metric {metric}{nearest(metric, task.metrics)}; it has {known}"
        )
    task.primary = metric
