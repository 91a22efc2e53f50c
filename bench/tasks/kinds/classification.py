"""Text classification: one class for each text, or for each pair of texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import Field

from bench.recipe.errors import nearest
from bench.tasks.alike import MISSING, class_of, comparable, doubtful, is_fraction
from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Split, Task
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Found, Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, jackknifed, mean, quality
from bench.tasks.table import DataTable, Name, PairTable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.tasks.tokens import EncodedTexts

    Array = np.ndarray[Any, np.dtype[np.float64]]

_MEASURED = 0.75
"""The share of labels with a fraction from which on they are measurements. Half stars are fewer."""


class ClassificationTable(PairTable):
    """One's own texts, or pairs of texts, with a class each."""

    label: Name = Field("label", description="the column that holds the label")
    label_order: list[Name] | None = Field(
        None, description="the classes in the order of the model's logits; sorted by name otherwise"
    )


class Classification(ItemTask["EncodedTexts"]):
    """A class for each text.

    Labels are words or numbers; where the data has types, numbers and true and false may stand without quotes. What is the
    same number or truth value is one class (:func:`bench.tasks.alike.class_of`), and what marks a missing value
    (:data:`bench.tasks.alike.MISSING`) is none. White space around texts and labels does not count.
    """

    kind = "classification"
    metrics = (
        "accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "matthews", "brier_score",
    )  # fmt: skip
    primary = "accuracy"
    learns = "from texts, or pairs of texts, with a class each"
    table: ClassVar[type[DataTable]] = ClassificationTable
    auto_class = "AutoModelForSequenceClassification"
    peft_task_type: ClassVar[str | None] = "SEQ_CLS"
    predicts_classes = True
    labels_texts = True
    few_shot_by_answer = True

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> Task:
        """One's own data."""
        assert isinstance(table, ClassificationTable)
        return (cls if len(table.texts) == 1 else PairClassification)(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: ClassificationTable) -> tuple[str, ...]:
        """The texts and the label."""
        return (*table.texts, table.label)

    def item(self, row: Row) -> Item:
        """The texts of a row, and its class."""
        *texts, label = row.rows.columns
        return Item(tuple(row.text(column).strip() for column in texts), self._label(row, label))

    def found(self) -> Iterator[Found]:
        """Every item, whose label no other one writes in a way that may be the same class."""
        if self.given is None:
            yield from super().found()
            return
        first_row: dict[str, Row] = {}
        for split, row in self.own:
            item = self.item(row)
            first_row.setdefault(item.answer, row)
            yield split, item
        if pair := doubtful(first_row):
            shown = str if all(label == comparable(label) for label in pair) else ascii
            rows = [first_row[label] for label in pair]
            one, other = (
                f"{shown(label)} ({row.rows.counted_by} {row.number})" for label, row in zip(pair, rows, strict=True)
            )
            raise rows[0].rows.error(
                f"`{rows[0].rows.columns[-1]}`: {one} and {other} differ in case, white space, Unicode form or zeros in front "
                "alone, or as 1 and true do; write a class in one way, and different classes so that more tells them apart"
            )

    def _label(self, row: Row, column: str) -> str:
        """The class that a row's label stands for."""
        value = row.values[column]
        if isinstance(value, list | dict):
            raise row.error(f"`{column}` is one class for each text, found {value!r:.60}; name a column of those")
        # JSON's NaN is pandas' too; its infinity is a word like any other.
        written = json.dumps(value) if isinstance(value, bool | int | float) else row.text(column).strip()
        if written in MISSING:
            raise row.error(
                f"`{column}` is `{written}`, which marks a missing value; fill it in or "
                "take the row out, and if it is the name of a class, give that another name"
            )
        label = class_of(written)
        self.noted["respelled"] += label != written
        order = getattr(self.given, "label_order", None)
        if order is not None and label not in order:
            raise row.error(f"`{column}` is `{label}`, which `label_order` has not{nearest(label, order)}")
        return label

    def problems(self) -> list[str]:
        """Say why the data cannot be used.

        A test item whose label no training item has is no problem: all methods get it wrong alike. Nor is an
        empty validation split, which few methods use.
        """
        found = super().problems()
        if found and "data" not in vars(self):
            return found
        if not len(self.data):
            return [f"{self.name}: no items are left, for every text has more than one label"]
        if len(self.counted) == 1:
            return [f"{self.name}: all items have one label, `{next(iter(self.counted))}`; two are needed"]
        if problem := self._no_classes():
            return [f"{self.name}: {problem}"]
        return found

    def _no_classes(self) -> str:
        """Why the labels are no classes; empty where they may be."""
        items, labels = len(self.data), sorted(self.counted)
        fractions = [label for label in labels if is_fraction(label)]
        measured = sum(self.counted[label] for label in fractions)
        if measured >= _MEASURED * items:
            return (
                f"{measured} of {items} labels are numbers with a fraction, such as `{fractions[0]}`: they look like "
                'measurements, and to predict those is a regression; give kind = "regression", or name a column of classes, '
                f"or write classes as words, as in `v{fractions[0]}`"
            )
        if len(labels) > max(2, items / 2):
            return (
                f"{items} items have {len(labels)} labels, such as `{labels[0]}` and `{labels[1]}`: more than "
                "one for two items are numbers or names of the items, and no classes; name a column of classes"
            )
        return ""

    @property
    def counted(self) -> Counter[str]:
        """How many items have each label."""
        found: Counter[str] = Counter()
        for split in get_args(Split):
            for label, count in self.data.distinct(split).items():
                found[json.loads(label)] += count
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the logits; a target is a position in them."""
        order = getattr(self.given, "label_order", None)
        return tuple(order or sorted(self.counted))

    def targets(self, split: Split) -> tuple[int, ...]:
        """The right answers of a split, in the order of its texts."""
        position = {label: target for target, label in enumerate(self.labels)}
        return tuple(position[answer] for answer in self.data.answers(split))

    # -- in a stage's own process ----------------------------------------------------------------------------

    @property
    def ranking(self) -> str:
        """The score whose items' parts are kept: the primary one, or accuracy where a subclass ranks by one of its own."""
        return self.primary if self.primary in Classification.metrics else Classification.primary

    def head_options(self) -> dict[str, Any]:
        """A logit for each label."""
        labels = self.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: target for target, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        }

    def reworded(self, batch: Batch, texts: Mapping[int, str], tokenizer: Any, max_length: int) -> Batch:
        """The batch made again, some of its texts changed."""
        from bench.tasks.tokens import EncodedTexts

        own = self.texts("train")
        words = [texts.get(place, own[item]) for place, item in enumerate(batch.items)]
        encoded = EncodedTexts(tokenizer, [words], batch.labels, max_length)
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
        """What :func:`scores` gives. An item whose logits are not numbers is predicted −1, which is never right.

        Raises:
            TaskError: the split has no texts.
        """
        import numpy as np
        import torch

        from bench.tasks.answered import answered

        encoded = self.encoded(split, tokenizer, max_length)
        predictions = np.full(len(encoded), -1)
        shares = np.zeros((len(encoded), len(self.labels)))
        retention = Retention()
        for batch, logits, other in answered(self.logits, encoded, model, batch_size, uncompressed, answers):
            if other is not None:
                retention.add(logits, other, batch.labels)
            where = list(batch.items)
            predictions[where] = torch.where(logits.isnan().any(-1), -1, logits.argmax(-1)).cpu().numpy()
            shares[where] = logits.double().softmax(-1).cpu().numpy()
        given = predictions.tolist()
        found = quality(scores(self.targets(split), given, shares, self.ranking), self.ranking, given)
        return replace(found, metrics={**found.metrics, **(retention.metrics() if uncompressed is not None else {})})

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """The class that most training items have; of several, the first by name."""
        import numpy as np

        counts, targets = Counter(self.targets("train")), self.targets("test")
        guess = max(sorted(counts), key=counts.__getitem__)
        sure = np.eye(len(self.labels))[[guess] * len(targets)]
        found = scores(targets, [guess] * len(targets), sure, self.ranking)
        return Chance(
            "the most frequent class of the training items, guessed for each test item",
            {name: score.value for name, score in found.items()},
        )

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> EncodedTexts:
        """Texts with their labels."""
        import torch

        from bench.tasks.tokens import EncodedTexts

        targets = torch.tensor(self.targets(split))
        return EncodedTexts(tokenizer, self.data.columns(split), targets, max_length, self.made_of(split))


class PairClassification(Classification):
    """A class for each pair of texts, whose label need not stay right where one of the two is said in other words."""

    labels_texts = False


def scores(
    truth: Sequence[int], predictions: Sequence[int], shares: Array, primary: str = "accuracy"
) -> dict[str, Score]:
    """Scores of classes, as scikit-learn has them; `shares` are the predicted probabilities, ``[items, classes]``.

    A prediction of −1 is none at all: it is wrong, and no class of its own. Precision, recall and F1 are averaged over the
    classes that occur in truth or predictions. The Brier score is the mean over items of the squared distance of the
    probabilities from the truth, 0 to 2. Of scores that are no mean over items, the `primary` one alone has items' parts.
    """
    import numpy as np
    from sklearn import metrics

    classes = sorted({*truth, *predictions} - {-1})
    found = {"accuracy": mean([int(each == guess) for each, guess in zip(truth, predictions, strict=True)])}
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            truth, predictions, labels=classes, average=average, zero_division=0
        )
        found[f"{average}_f1"] = Score(float(f1))
        if average == "macro":
            found |= {"macro_precision": Score(float(precision)), "macro_recall": Score(float(recall))}
    found["matthews"] = Score(float(metrics.matthews_corrcoef(truth, predictions)))
    distances = ((shares - np.eye(shares.shape[1])[list(truth)]) ** 2).sum(1)
    found["brier_score"] = mean(distances.tolist())
    if not found[primary].items:
        parts = jackknifed(_counts(truth, predictions, classes), _STATISTICS[primary])
        found[primary] = Score(found[primary].value, parts.items)
    return found


def _counts(truth: Sequence[int], predictions: Sequence[int], classes: Sequence[int]) -> Array:
    """What each item adds to each class: right predictions, true ones, and predicted ones. ``[items, 3 × classes]``."""
    import numpy as np

    true, guessed = (np.array(each)[:, None] == np.array(classes) for each in (truth, predictions))
    return np.concatenate([true & guessed, true, guessed], axis=1).astype(np.float64)


def _averages(sums: Array) -> tuple[Array, Array, Array, Array]:
    """Precision, recall and F1 of each class, and how many true items it has: ``[any, classes]`` each."""
    import numpy as np

    right, true, guessed = np.split(sums, 3, axis=-1)
    return right / np.maximum(guessed, 1), right / np.maximum(true, 1), 2 * right / np.maximum(true + guessed, 1), true


def _matthews(sums: Array) -> Array:
    """Gorodkin's correlation of several classes (https://doi.org/10.1016/j.compbiolchem.2004.09.006)."""
    import numpy as np

    right, true, guessed = np.split(sums, 3, axis=-1)
    items = true.sum(-1)
    spread = (items**2 - (true**2).sum(-1)) * (items**2 - (guessed**2).sum(-1))
    return np.where(
        spread > 0, (right.sum(-1) * items - (true * guessed).sum(-1)) / np.sqrt(np.maximum(spread, 1)), 0.0
    )


_STATISTICS = {
    "macro_f1": lambda sums: _averages(sums)[2].mean(-1),
    "weighted_f1": lambda sums: (_averages(sums)[2] * _share(sums)).sum(-1),
    "macro_precision": lambda sums: _averages(sums)[0].mean(-1),
    "macro_recall": lambda sums: _averages(sums)[1].mean(-1),
    "matthews": _matthews,
}


def _share(sums: Array) -> Array:
    true = _averages(sums)[3]
    share: Array = true / true.sum(-1, keepdims=True)
    return share
