"""What a task is: data split into training, validation and test items, a criterion, and a score.

Planning asks a task for its name, its problems and its fingerprint, and none of these may import torch.
"""

from __future__ import annotations

import abc
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from bench.tasks.table import DataTable
from bench.tasks.table import Split as Split

if TYPE_CHECKING:
    import torch

    from bench.models.structure import Structure
    from bench.recipe.claim import Claim


@dataclass(frozen=True)
class Batch:
    """Items ready for the model.

    ``inputs`` are the keyword arguments of the model's forward pass and ``labels`` the criterion's, both with items
    along dimension 0. Of each item, ``lengths`` counts the real tokens, never padding; ``terms`` the terms that the
    criterion's mean is over (1 for classification, the predicted tokens for language modelling); ``items`` is its
    position in the split. All three are plain numbers, so that reading them never waits for a device.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    lengths: tuple[int, ...]
    terms: tuple[int, ...]
    items: tuple[int, ...]

    @property
    def samples(self) -> int:
        """How many items."""
        return len(self.items)

    @property
    def tokens(self) -> int:
        """How many real tokens."""
        return sum(self.lengths)

    @property
    def weight(self) -> int:
        """How many terms the criterion's mean is over: by these, micro-batches are put together exactly."""
        return sum(self.terms)

    @property
    def padded(self) -> bool:
        """Whether an item is shorter than the batch is wide."""
        mask = self.inputs.get("attention_mask")
        shape = next(iter(self.inputs.values())).shape[:2] if mask is None else mask.shape
        return self.tokens < math.prod(shape)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if self.labels.device == device:
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU can copy from by itself: from any other, copying waits."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return replace(self, inputs=inputs, labels=change(self.labels))

    def split(self, parts: int) -> list[Batch]:
        """The batch in at most `parts` micro-batches of nearly equal numbers of items."""
        bounds = [self.samples * part // parts for part in range(parts + 1)]
        return [
            Batch(
                inputs={name: tensor[start:stop] for name, tensor in self.inputs.items()},
                labels=self.labels[start:stop],
                lengths=self.lengths[start:stop],
                terms=self.terms[start:stop],
                items=self.items[start:stop],
            )
            for start, stop in itertools.pairwise(bounds)
            if stop > start
        ]


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches` on `device`; to a GPU, the next is on its way while one is at work, and waits for nothing of that work."""
    if device.type == "cuda":
        return ahead(batches, Copies(device))
    return (batch.to(device) for batch in batches)


def ahead(batches: Iterator[Batch], copies: Copies) -> Iterator[Batch]:
    """`batches` by `copies`, each begun one before it is asked for."""
    coming = next(batches, None)
    begun = None if coming is None else copies.begin(coming)
    while begun is not None:
        # First: it waits for all copies that have begun.
        copies.end(begun)
        coming = next(batches, None)
        here, begun = begun, None if coming is None else copies.begin(coming)
        yield here


class Copies:
    """Copies of batches to a GPU, in a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._stream = torch.cuda.Stream(device)

    def begin(self, batch: Batch) -> Batch:
        """`batch` as it will be there; its copy is queued."""
        import torch

        with torch.cuda.stream(self._stream):
            return batch.pinned().to(self._device)

    def end(self, batch: Batch) -> None:
        """What is queued from here on finds it there. The host does not wait."""
        import torch

        working = torch.cuda.current_stream(self._device)
        working.wait_stream(self._stream)
        for tensor in (*batch.inputs.values(), batch.labels):
            # Its memory is of the other stream, which would give it to a later copy while the work still reads it.
            tensor.record_stream(working)


@dataclass(frozen=True)
class Quality:
    """How good a model is on the test split.

    ``metrics`` are those that the task declares. ``correct`` holds what each scored item adds to one of them: 1 or 0,
    or a loss for tasks without right and wrong. Its mean *is* that metric, and its order depends on the data alone, so
    that two models compare pairwise. Where one of them is no number, it is empty: nothing can be paired with that.
    """

    metrics: Mapping[str, float]
    predictions: tuple[int, ...] = ()
    correct: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.correct)):
            object.__setattr__(self, "correct", ())


@dataclass(frozen=True)
class Chance:
    """What a guess that reads no text reaches on the test split: metrics that the task declares, as :class:`Quality` has them.

    ``about`` says what is guessed, such as "the most frequent class".
    """

    about: str
    metrics: Mapping[str, float]


Answers = list["torch.Tensor"]
"""The logits of an evaluation's batches, ``[predictions, classes]`` each, on the CPU."""

IGNORED = -100
"""The label of a position that the criterion leaves out, as torch's cross entropy and transformers have it."""

MOST_KEPT = 2**26
"""Logits of an evaluation that are kept at most, 256 MB of float32."""


class Retention:
    """What a compressed model keeps of the uncompressed one's answers, over any number of batches of predictions."""

    figures: ClassVar[tuple[str, ...]] = ("agreement", "kl_divergence", "won", "lost")

    def __init__(self) -> None:
        self._count = self._agreeing = self._won = self._lost = 0
        self._divergence = 0.0

    def add(self, logits: torch.Tensor, uncompressed: torch.Tensor, labels: torch.Tensor) -> None:
        """Count predictions: logits of both models ``[predictions, classes]``, and the right classes.

        Logits that are not numbers predict nothing, and diverge without end.
        """
        # In double precision, or small divergences are noise; some predictions at a time, for that takes memory.
        rows = max(1, 2**22 // logits.shape[-1])
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            self._add(logits[part], uncompressed[part], labels[part])

    def _add(self, logits: torch.Tensor, uncompressed: torch.Tensor, labels: torch.Tensor) -> None:
        import torch

        ours, theirs = (each.double().log_softmax(-1) for each in (logits, uncompressed))
        mine, other = (torch.where(each.isnan().any(-1), -1, each.argmax(-1)) for each in (ours, theirs))
        self._count += len(labels)
        self._agreeing += int(((mine == other) & (mine >= 0)).sum())
        self._won += int(((mine == labels) & (other != labels)).sum())
        self._lost += int(((mine != labels) & (other == labels)).sum())
        each = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        self._divergence += float(each.sum())

    def metrics(self) -> dict[str, float]:
        """What :attr:`figures` names."""
        return {
            "agreement": self._agreeing / self._count,
            "kl_divergence": self._divergence / self._count,
            "won": self._won,
            "lost": self._lost,
        }


class Task(abc.ABC):
    """A task. Registered subclasses have a ``name``; others are made from a suite's ``[task]`` table.

    A kind of task is a subclass too, that all tasks of the kind are under: it says its ``kind``, and below as data what
    the engine and the methods ask of it. They ask for what they need to know, never which kind it is, so that they work
    on kinds that they have not heard of.

    ``metrics`` names what :meth:`evaluate` returns beside :class:`Retention`'s, and ``primary`` the one of them that ranks
    recipes; a metric is registered for each (docs/write-a-metric.md).
    """

    name: str
    summary: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]] = ()
    primary: str = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.primary not in (cls.metrics or ("",)):
            raise TypeError(
                f"{cls.__qualname__}: primary is one of metrics ({', '.join(cls.metrics) or 'none'}), found {cls.primary!r}"
            )

    kind: ClassVar[str]
    learns: ClassVar[str] = ""
    """What from, in words that go on after "learns", such as "from texts alone"."""
    table: ClassVar[type[DataTable]] = DataTable
    """The keys of a suite's ``[task]`` table for one's own data."""
    reads: ClassVar[tuple[str, ...]] = ()
    """The files that hold one's own data, by what their names end in, such as ".csv"; first those that are usual."""
    auto_class: ClassVar[str]
    """transformers' auto class that a model is loaded with, such as "AutoModelForTokenClassification"."""
    new_head: ClassVar[bool] = True
    """Whether the model's head is new, made for the task's data; else it is one that models are pretrained with."""
    generates: ClassVar[bool] = False
    """Whether the model writes, one token after the other: latency is then that of a prompt and of the tokens after it,
    else that of one forward pass."""
    written_tokens: int = 0
    """How many tokens a model writes after an item for its score, at most; they take positions beside the item's."""
    packing: bool = False
    """Whether several items of training stand one after the other in a row, told apart by ``position_ids`` that begin again."""
    peft_task_type: ClassVar[str | None] = None
    """PEFT's name for the kind, such as "TOKEN_CLS"; None where it has none."""
    reads_texts: ClassVar[bool] = False
    """Whether an item is one text, whose tokens are ``input_ids`` with an ``attention_mask``."""
    logit_names: ClassVar[tuple[str, ...]] = ("logits",)
    """What a model's outputs call the tensors that :meth:`logits` and :meth:`criterion` read."""
    reads_choices: ClassVar[bool] = False
    """Whether an item is several texts that the model chooses among: inputs are then ``[items, choices, tokens]``."""
    predicts_classes: ClassVar[bool] = False
    """Whether the answers are classes, of which :meth:`logits` has the scores."""
    reads_images: ClassVar[bool] = False
    """Whether an item is an image, so that nothing is measured by lengths in tokens."""
    labels_texts: ClassVar[bool] = False
    """Whether each text has one label, which stays right where the text is said in other words: :meth:`reworded`."""

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> Task:
        """One's own data as a task of this kind, with nothing read yet; paths in `table` are relative to `suite_folder`.

        Raises:
            TaskError: the kind has no such tasks, or the file is on no path that there can be.
        """
        raise TaskError(f"task.kind: a {cls.kind} task is not made from a table; give the name of a registered one")

    # -- planning, without torch ---------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Say why the data cannot be used, in a sentence each: file, column and mend."""
        return []

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash over every item, its label and its split. Results of different fingerprints are not compared."""

    def splits(self) -> frozenset[Split]:
        """The splits that have items, asked where there are no problems."""
        return frozenset(get_args(Split))

    def training_items(self) -> int | None:
        """How many items training has, asked where there are no problems; None where that takes the model to know, or
        where there are plenty."""
        return None

    def counts(self) -> Mapping[str, int]:
        """What became of the texts that were read, asked where there are no problems; empty where a task does not say.

        ``read`` is how many there were, and ``train``, ``validation`` and ``test`` the items that they are now. Left out
        are those ``equal`` to another, ``near_equal`` ones, which differ in white space, invisible characters or Unicode
        form alone, ``conflicting`` ones, which have several labels, and passages ``in_two_splits``. ``respelled`` are
        labels that are written in another way than their class is called.
        """
        return {}

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """Why a model of transformers' type `model_type`, of which this is known, cannot do this task; empty where it can."""
        return ""

    def model_notes(self, structure: Structure) -> Iterable[str]:
        """What a reader should know of this task with a model of which this is known, in a sentence each."""
        return ()

    # -- in a stage's own process --------------------------------------------------------------------------------

    def model_options(self) -> tuple[str, dict[str, Any]]:
        """The transformers auto class to load the model with, and the options that fit its head to the task."""
        return self.auto_class, self.head_options()

    @property
    def choices(self) -> int:
        """How many texts an item has that the model chooses among; 0 where the kind does not ``reads_choices``."""
        return 0

    def head_options(self) -> dict[str, Any]:
        """Options of ``from_pretrained`` that fit the model's head to the task's data."""
        return {}

    @abc.abstractmethod
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

    def epoch_items(self, tokenizer: Any, max_length: int) -> int:
        """How many items an epoch of training has, once they are token ids.

        Raises:
            TaskError: the kind does not say.
        """
        if (items := self.training_items()) is None:
            raise TaskError(f"{self.name}: how many items an epoch has is not known; give budget.steps, not epochs")
        return items

    def reworded(self, batch: Batch, texts: Mapping[int, str], tokenizer: Any, max_length: int) -> Batch:
        """`batch`, of training items, on the CPU and with other texts: `texts` has them by their place in the batch.

        Asked where the kind ``labels_texts``.
        """
        raise TaskError(
            f"{type(self).__qualname__}: it `labels_texts`, and has no `reworded` to read them in other words"
        )

    @abc.abstractmethod
    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The mean loss over ``batch.weight`` terms, a scalar."""

    @abc.abstractmethod
    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The logits that decide the prediction, ``[terms, classes]``."""

    def evidence(self, model: torch.nn.Module, tokenizer: Any, batch: Batch, max_length: int) -> Iterable[Claim]:
        """What must hold of `batch`, of training items and on the CPU, and of `model` that learns from it; asked once a training.

        It looks at what is in the batch, never at how the kind came to put it there.
        """
        return ()

    def chance(self, tokenizer: Any, max_length: int) -> Chance | None:
        """What a guess that reads no text reaches on the test split; None where the kind does not say."""
        return None

    @abc.abstractmethod
    def evaluate(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        split: Split = "test",
        uncompressed: torch.nn.Module | Answers | None = None,
        answers: Answers | None = None,
    ) -> Quality:
        """Score `model`, which is in evaluation mode, on `split`.

        Beside an `uncompressed` model, a kind with classes adds what `model` keeps of its answers to the metrics
        (:class:`Retention`). A task whose answers are few adds those of `model` to `answers`; with the same split and sizes
        these are given as `uncompressed` later.
        """


class TaskError(Exception):
    """The data cannot be used. The message names the file, the row or column and the mend."""


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone; it decides the split and the order in it."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(at: float) -> Split:
    """The split of what is at this :func:`hash_fraction`: about 70 % train, 10 % validate and 20 % test."""
    return "test" if at < 0.2 else "validation" if at < 0.3 else "train"


def shuffled(items: int, generator: torch.Generator) -> Iterator[int]:
    """Endless numbers below `items`: each epoch holds each once, in a new order."""
    import torch

    while True:
        yield from torch.randperm(items, generator=generator).tolist()


def first(*values: int | None) -> int:
    """The first that is not None."""
    return next(value for value in values if value is not None)
