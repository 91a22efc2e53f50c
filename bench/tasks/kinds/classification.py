"""Text classification: one label a text, on one's own table or on any other source of texts and labels."""

from __future__ import annotations

import abc
import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from bench.tasks.alike import MISSING, class_of, comparable, doubtful, is_fraction, representative
from bench.tasks.base import (
    MOST_KEPT,
    Answers,
    Batch,
    Chance,
    Quality,
    Retention,
    Split,
    TaskError,
    first,
    hash_fraction,
    split_of,
)
from bench.tasks.rows import Rows
from bench.tasks.table import DataTable, Name
from bench.tasks.texts import TextTask

if TYPE_CHECKING:
    import torch

Row = tuple[str, str]
"""A text and its label."""

_NEEDED: Mapping[Split, int] = {"train": 70, "test": 20}

_MEASURED = 0.75
"""The share of labels with a fraction from which on they are measurements. Half stars are fewer."""


@dataclass(frozen=True)
class DividedRows:
    """Items in their splits. Labels are sorted, and targets are positions in them.

    Order and fingerprint depend on the set of items alone, not on the order in which a file happened to have
    them. ``counts`` says what became of the rows, as :meth:`bench.tasks.base.Task.counts` does.
    """

    labels: tuple[str, ...]
    texts: Mapping[Split, tuple[str, ...]]
    targets: Mapping[Split, tuple[int, ...]]
    fingerprint: str
    counts: Mapping[str, int] = field(default_factory=dict, compare=False)

    def rows(self) -> Iterator[Row]:
        """Every item."""
        for split, texts in self.texts.items():
            yield from zip(texts, (self.labels[target] for target in self.targets[split]), strict=True)


def divide(found: Iterable[Row]) -> DividedRows:
    """Put items into splits by a hash of their text: about 70 % train, 10 % validate and 20 % test.

    So an item stays in its split whatever else there is, and no text is ever in two. Texts are the same where they have
    the same form (:func:`bench.tasks.alike.comparable`), of which alone the hash is; the item's text is as it was
    written, in one of the ways that occur.

    A text that occurs again with the same label counts once. A text that occurs with two labels is left out:
    it has no right answer, and to keep either would make the result depend on the order of rows.
    """
    written = Counter(found)
    same: dict[str, list[Row]] = {}
    for row in written:
        same.setdefault(comparable(row[0]), []).append(row)
    counts = Counter({"read": written.total()})
    items = []
    for form, rows in same.items():
        if len({label for _, label in rows}) > 1:
            counts["conflicting"] += sum(written[row] for row in rows)
            continue
        counts["near_equal"] += len(rows) - 1
        counts["equal"] += sum(written[row] - 1 for row in rows)
        items.append((hash_fraction(form), representative(text for text, _ in rows), rows[0][1]))
    items.sort()
    labels = tuple(sorted({label for _, _, label in items}))
    position = {label: target for target, label in enumerate(labels)}
    texts: dict[Split, list[str]] = {split: [] for split in get_args(Split)}
    targets: dict[Split, list[int]] = {split: [] for split in get_args(Split)}
    digest = hashlib.sha256()
    for at, text, label in items:
        split = split_of(at)
        texts[split].append(text)
        targets[split].append(position[label])
        digest.update(json.dumps([text, label, split]).encode("ascii"))
    return DividedRows(
        labels=labels,
        texts={split: tuple(of) for split, of in texts.items()},
        targets={split: tuple(of) for split, of in targets.items()},
        fingerprint=digest.hexdigest(),
        counts={**counts, **{split: len(of) for split, of in texts.items()}},
    )


class ClassificationTable(DataTable):
    """One's own texts with a class each."""

    label: Name = Field("label", description="the column that holds the label")


class Classification(TextTask[DividedRows, "Encoded"]):
    """Text classification on what :meth:`read` finds. See :func:`divide` for what becomes of it."""

    kind = "classification"
    metrics = ("accuracy", "macro_f1")
    primary = "accuracy"
    learns = "from texts with a class each"
    table = ClassificationTable
    reads = (".csv", ".jsonl")
    auto_class = "AutoModelForSequenceClassification"
    peft_task_type = "SEQ_CLS"
    predicts_classes = True
    labels_texts = True

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> Table:
        """The rows of one's own file."""
        assert isinstance(table, ClassificationTable)
        return Table(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @abc.abstractmethod
    def read(self) -> Iterable[Row]:
        """Every text with its label.

        Raises:
            TaskError: the data cannot be used.
        """

    def divided(self) -> DividedRows:
        """Every item in its split.

        Raises:
            TaskError: the data cannot be used.
        """
        return divide(self.read())

    def problems(self) -> list[str]:
        """Say why the data cannot be used.

        A test item whose label no training item has is no problem: all methods get it wrong alike. Nor is an
        empty validation split, which few methods use.
        """
        try:
            data = self.data
        except TaskError as error:
            return [str(error)]
        items = sum(map(len, data.texts.values()))
        if not items:
            return [f"{self.name}: no items are left, for every text has more than one label"]
        if len(data.labels) == 1:
            return [f"{self.name}: all items have one label, `{data.labels[0]}`; two are needed"]
        if problem := self._no_classes(data, items):
            return [f"{self.name}: {problem}"]
        return [
            f"{self.name}: {items} different items are too few: none falls into {split}, "
            f"which gets about {share} % of all; add more"
            for split, share in _NEEDED.items()
            if not data.texts[split]
        ]

    @staticmethod
    def _no_classes(data: DividedRows, items: int) -> str:
        """Why the labels are no classes; empty where they may be."""
        fractions = [label for _, label in data.rows() if is_fraction(label)]
        if len(fractions) >= _MEASURED * items:
            return (
                f"{len(fractions)} of {items} labels are numbers with a fraction, such as `{fractions[0]}`: they look like "
                "measurements, and to predict those is a regression, which is another kind of task; name a column "
                f"of classes, or write classes as words, as in `v{fractions[0]}`"
            )
        if len(data.labels) > max(2, items / 2):
            return (
                f"{items} items have {len(data.labels)} labels, such as `{data.labels[0]}` and `{data.labels[1]}`: more than "
                "one for two items are numbers or names of the items, and no classes; name a column of classes"
            )
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, sorted; a target is a position in them."""
        return self.data.labels

    def training_items(self) -> int | None:
        """How many items training has."""
        return len(self.data.texts["train"])

    def targets(self, split: Split) -> tuple[int, ...]:
        """The right answers of a split, in the order of its texts."""
        return self.data.targets[split]

    # -- in a stage's own process ----------------------------------------------------------------------------

    def head_options(self) -> dict[str, Any]:
        """A logit for each label."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: target for target, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def reworded(self, batch: Batch, texts: Mapping[int, str], tokenizer: Any, max_length: int) -> Batch:
        """The batch made again, some of its texts changed."""
        own, targets = self.texts("train"), self.targets("train")
        encoded = Encoded(
            tokenizer,
            [texts.get(place, own[item]) for place, item in enumerate(batch.items)],
            [targets[item] for item in batch.items],
            max_length,
        )
        return replace(encoded.batch(range(batch.samples)), items=batch.items)

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over items."""
        import torch

        return torch.nn.functional.cross_entropy(self.logits(outputs, batch).float(), batch.labels)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[items, labels]``."""
        logits: torch.Tensor = outputs.logits
        return logits

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
        """Accuracy and macro F1. An item whose logits are not numbers is predicted −1, which is never right.

        Raises:
            TaskError: the split has no texts.
        """
        import torch

        from bench.models.modes import device_of

        encoded = self.encoded(split, tokenizer, max_length)
        device = device_of(model)
        # Items of like length go together, for little padding; results are put back in the order of items.
        order = sorted(range(len(encoded)), key=lambda item: encoded.lengths[item])
        predictions = [-1] * len(encoded)
        retention = Retention()
        with torch.no_grad():
            for number, start in enumerate(range(0, len(order), batch_size)):
                batch = encoded.batch(order[start : start + batch_size]).to(device)
                logits = self.logits(model(**batch.inputs), batch)
                if answers is not None and len(order) * logits.shape[-1] <= MOST_KEPT:
                    answers.append(logits.cpu())
                if isinstance(uncompressed, torch.nn.Module):
                    retention.add(logits, self.logits(uncompressed(**batch.inputs), batch), batch.labels)
                elif uncompressed is not None:
                    retention.add(logits, uncompressed[number].to(device), batch.labels)
                predicted = torch.where(logits.isnan().any(-1), -1, logits.argmax(-1))
                for item, prediction in zip(batch.items, predicted.tolist(), strict=True):
                    predictions[item] = prediction
        targets = self.targets(split)
        # Whole numbers: a record is half as long so, and reading many takes far less memory.
        correct = tuple(int(target == prediction) for target, prediction in zip(targets, predictions, strict=True))
        metrics = {"accuracy": sum(correct) / len(correct), "macro_f1": macro_f1(targets, predictions)}
        metrics |= retention.metrics() if uncompressed is not None else {}
        return Quality(metrics, tuple(predictions), correct)

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """The class that most training items have; of several, the first by name."""
        counts, targets = Counter(self.targets("train")), self.targets("test")
        guess = max(sorted(counts), key=counts.__getitem__)
        metrics = {
            "accuracy": targets.count(guess) / len(targets),
            "macro_f1": macro_f1(targets, [guess] * len(targets)),
        }
        return Chance("the most frequent class of the training items, guessed for each test item", metrics)

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> Encoded:
        """Texts with their labels."""
        return Encoded(tokenizer, self.texts(split), self.targets(split), max_length)


class Encoded:
    """Texts as token ids, special tokens included; ``lengths`` counts those of each text.

    All ids lie end to end in one array: a batch is a single look-up, and a large split takes 4 bytes a token.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], targets: Sequence[int], max_length: int) -> None:
        import torch

        self.tokenizer = tokenizer
        self.lengths: list[int] = []
        pad = first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._fill = {
            "input_ids": pad,
            "token_type_ids": first(getattr(tokenizer, "pad_token_type_id", None), 0),
        }
        columns: dict[str, array[int]] = {}
        # Some hundreds at a time: quick for the tokenizer, which needs much memory for each text it is at.
        for start in range(0, len(texts), 512):
            part = list(texts[start : start + 512])
            found = tokenizer(part, truncation=True, max_length=max_length, return_attention_mask=False)
            for name in self._fill.keys() & found.keys():
                for row in found[name]:
                    # Without special tokens a text can come to nothing, and a model needs a token at least.
                    columns.setdefault(name, array("i")).extend(row or [self._fill[name]])
            self.lengths += [max(1, len(row)) for row in found["input_ids"]]
        self._columns = {name: torch.frombuffer(column, dtype=torch.int32) for name, column in sorted(columns.items())}
        self._lengths = torch.tensor(self.lengths)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._targets = torch.tensor(targets)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order."""
        import torch

        chosen = torch.tensor(items)
        lengths = tuple(self.lengths[item] for item in items)
        column = torch.arange(max(lengths))
        real = column < self._lengths[chosen][:, None]
        # Where there is only padding, any token is read, and then written over.
        where = torch.where(real, self._starts[chosen][:, None] + column, 0)
        inputs = {name: ids[where].long().masked_fill_(~real, self._fill[name]) for name, ids in self._columns.items()}
        inputs["attention_mask"] = real.long()
        return Batch(inputs, self._targets[chosen], lengths, terms=(1,) * len(items), items=tuple(items))


def macro_f1(truth: Sequence[int], predictions: Sequence[int]) -> float:
    """F1 of each class, averaged with equal weight over the classes that occur in truth or predictions.

    A prediction of −1 is none at all: it counts against the recall of the true class and is no class of its
    own. The rest is as in scikit-learn's ``f1_score(average="macro")``.
    """
    hits = Counter(true for true, guess in zip(truth, predictions, strict=True) if true == guess)
    occurrences = Counter(truth) + Counter(guess for guess in predictions if guess != -1)
    # 2 · hits / occurrences is 2 · precision · recall / (precision + recall) without its divisions by zero.
    return sum(2 * hits[label] / count for label, count in occurrences.items()) / len(occurrences)


class Table(Classification):
    """One's own data: a .csv file with a header row, or a .jsonl file of one object a line, in UTF-8.

    Labels are words or numbers; in a .jsonl file numbers and true and false may stand without quotes. What is the same
    number or truth value is one class in both (:func:`bench.tasks.alike.class_of`), and what marks a missing value
    (:data:`bench.tasks.alike.MISSING`) is none. White space around texts and labels does not count.
    """

    def __init__(self, table: ClassificationTable, suite_folder: Path) -> None:
        super().__init__()
        self.rows = Rows.of(table, suite_folder, table.text, table.label)
        self.file = self.rows.file
        self.name = table.name or self.file.stem
        self._respelled = 0

    def divided(self) -> DividedRows:
        """Every row in its split.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        self._respelled = 0
        data = super().divided()
        return replace(data, counts={**data.counts, "respelled": self._respelled})

    def read(self) -> Iterator[Row]:
        """Every row.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        of_text, of_label = self.rows.columns
        first_line: dict[str, int] = {}
        for line, (text, value) in self.rows:
            label = self._label(line, of_label, value)
            first_line.setdefault(label, line)
            yield self.rows.text(line, of_text, text).strip(), label
        if pair := doubtful(first_line):
            shown = str if all(label == comparable(label) for label in pair) else ascii
            one, other = (f"{shown(label)} (line {first_line[label]})" for label in pair)
            raise self.rows.error(
                f"`{of_label}`: {one} and {other} differ in case, white space, Unicode form or zeros in front alone, or as 1 "
                "and true do; write a class in one way, and different classes so that more tells them apart"
            )

    def _label(self, line: int, column: str, value: object) -> str:
        """The class that a row's label stands for."""
        where = f"line {line}: `{column}`"
        if isinstance(value, float) and not math.isfinite(value):
            value = "NaN" if math.isnan(value) else str(value)
        written = json.dumps(value) if isinstance(value, bool | int | float) else value
        if isinstance(written, list | dict):
            raise self.rows.error(f"{where} is one class for each text, found {written!r:.60}; name a column of those")
        written = self.rows.text(line, column, written).strip()
        if written in MISSING:
            raise self.rows.error(
                f"{where} is `{written}`, which marks a missing value; fill it in or take the row out, and if it is the "
                "name of a class, give that another name"
            )
        label = class_of(written)
        self._respelled += label != written
        return label
