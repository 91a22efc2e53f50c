"""Data that a model is looked at on while it is compressed: a task's training items, or the texts of a file."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.recipe.errors import nearest
from bench.tasks import files
from bench.tasks.base import Batch, Split, TaskError, shuffled
from bench.tasks.kinds.language_modelling import LanguageModelling, OwnText
from bench.tasks.registry import kinds, open_task, tasks
from bench.tasks.table import TextTable

if TYPE_CHECKING:
    import torch

TRAIN = "train"
"""What calibrates by default: the training items of the task that the recipe runs on."""


class Data(Protocol):
    """What a :class:`bench.tasks.base.Task` has of this, and a :class:`TextFile` too."""

    name: str

    def problems(self) -> list[str]:
        """Why it cannot be used, in a sentence each."""

    def fingerprint(self) -> str:
        """A hash over every item."""

    def training_items(self) -> int | None:
        """How many items there are; None where that takes the model to know, or where there are plenty."""

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Batches on the CPU: endless and shuffled by `generator` where one is given, else one pass in order."""


def open_data(spec: str, suite_folder: Path) -> Data:
    """The registered task called `spec`, or the file of that name, seen from `suite_folder`, with nothing read yet.

    Raises:
        TaskError: it is neither, or on no path that there can be.
    """
    suffixes = {suffix for kind in kinds().values() for suffix in kind.reads}
    if Path(spec).suffix.lower() in suffixes:
        return TextFile(spec, suite_folder)
    known = [*tasks(), *files.shipped()]
    if spec not in known:
        raise TaskError(
            f'`{spec}` is no task{nearest(spec, [TRAIN, *known])}; give "{TRAIN}", the name of a registered task, or a file '
            f"beside the suite ({', '.join(sorted(suffixes))})"
        )
    return open_task(spec, suite_folder)


class TextFile:
    """The texts of a file as items, in its order: those that are equal once, each with the tokenizer's special tokens, and cut
    at ``max_length``. A .csv or .jsonl file has them in a column ``text``, a .txt file in passages of some 2,000 characters.
    """

    def __init__(self, file: str, suite_folder: Path) -> None:
        kind = LanguageModelling.kind
        self._reader = OwnText(TextTable(kind=kind, data=file), suite_folder)
        self.name = file
        self._encoded: tuple[Any, Any] | None = None

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The texts.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        return tuple(dict.fromkeys(item.texts[0] for _, item in self._reader.read()))

    def problems(self) -> list[str]:
        """Why it cannot be read."""
        try:
            return [] if self.texts else [f"{self.name}: it has no texts"]
        except TaskError as error:
            return [str(error)]

    def fingerprint(self) -> str:
        """A SHA-256 over every text.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        return hashlib.sha256(json.dumps(self.texts).encode("ascii")).hexdigest()

    def training_items(self) -> int:
        """How many texts."""
        return len(self.texts)

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Batches as a task's are, all labels 0: nothing is held out, so `split` is "train"."""
        import torch

        from bench.tasks.tokens import EncodedTexts

        encoded = EncodedTexts(tokenizer, [self.texts], torch.zeros(len(self.texts), dtype=torch.long), max_length)
        order = iter(range(len(encoded))) if generator is None else shuffled(len(encoded), generator)
        while items := tuple(itertools.islice(order, batch_size)):
            yield encoded.batch(items)
