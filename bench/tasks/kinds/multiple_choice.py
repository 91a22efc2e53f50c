"""Multiple choice: which of several answers to a question is right?"""

from __future__ import annotations

import functools
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Field

from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Split
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.rows import Row
from bench.tasks.scores import mean, quality
from bench.tasks.table import DataTable, Name

if TYPE_CHECKING:
    import torch


_NEVER = -1e4
"""The logit of a choice that an item has not."""


class ChoiceTable(DataTable):
    """One's own questions, with answers to choose among."""

    context: Name | None = Field(
        None, description="the column that holds a text that is read before the question, if any"
    )
    question: Name = Field("question", description="the column that holds the question, or the text that goes on")
    choices: Name | Annotated[list[Name], Field(min_length=2)] = Field(
        "choices", description="the column that holds the list of choices, or the columns of one choice each"
    )
    answer: Name = Field(
        "answer",
        description="the column that holds the right choice: its text, its letter from A, or its number from 0",
    )
    choice_names: Name | None = Field(
        None, description="the column that holds the list of the choices' names, where `answer` is one of these"
    )

    @property
    def choice_columns(self) -> tuple[str, ...]:
        """The columns that hold the choices."""
        return (self.choices,) if isinstance(self.choices, str) else tuple(self.choices)


class MultipleChoice(ItemTask["EncodedChoices"]):
    """The right one of several answers to a question.

    The model reads the question together with each choice. Items may have different numbers of choices: the logit of one that
    an item lacks is so low that it is never chosen.
    """

    kind = "multiple_choice"
    metrics = ("accuracy",)
    primary = "accuracy"
    learns = "from questions with answers to choose among"
    table = ChoiceTable
    auto_class = "AutoModelForMultipleChoice"
    reads_texts = False
    reads_choices = True
    predicts_classes = True

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: ChoiceTable) -> tuple[str, ...]:
        """The texts, the choices and the answer."""
        optional = [column for column in (table.context, table.choice_names) if column]
        return table.question, *table.choice_columns, table.answer, *optional

    def item(self, row: Row) -> Item:
        """The question of a row after its context, its choices as lines of a text, and the place of the right one."""
        table = self.given
        assert isinstance(table, ChoiceTable)
        question = row.text(table.question).strip()
        if table.context:
            question = f"{row.text(table.context).strip()} {question}"
        if isinstance(table.choices, str):
            choices = row.list_in(table.choices)
            if wrong := [each for each in choices if not isinstance(each, str) or not each.strip()]:
                raise row.error(f"`{table.choices}` is a list of texts, found {wrong[0]!r:.60} in it")
        else:
            choices = [row.text(column) for column in table.choices]
        if len(choices) < 2:
            raise row.error(f"`{table.choices}` has {len(choices)} choices; two are needed")
        choices = [" ".join(each.split()) for each in choices]
        return chosen(question, choices, self._place(row, table, choices))

    def _place(self, row: Row, table: ChoiceTable, choices: Sequence[str]) -> int:
        """Which of `choices` is right."""
        value = row.values[table.answer]
        if isinstance(value, str):
            value = " ".join(value.split())
        if table.choice_names:
            names = [str(name) for name in row.list_in(table.choice_names)]
            if len(names) != len(choices):
                raise row.error(
                    f"{len(choices)} choices have {len(names)} names in `{table.choice_names}`; give each one"
                )
            if str(value) not in names:
                raise row.error(f"`{table.answer}` is {value!r:.60}, and the choices are called {', '.join(names)}")
            return names.index(str(value))
        if value in choices:
            return choices.index(value)
        letters = string.ascii_uppercase[: len(choices)]
        if isinstance(value, str) and len(value) == 1 and value.upper() in letters:
            return letters.index(value.upper())
        if not isinstance(value, bool) and str(value).isdecimal() and int(value) < len(choices):
            return int(value)
        raise row.error(
            f"`{table.answer}` is none of the {len(choices)} choices, found {value!r:.60}; give the right one's text, its letter "
            f"(A to {letters[-1]}) or its number (0 to {len(choices) - 1}), or the column of the choices' names in `choice_names`"
        )

    @functools.cached_property
    def choices(self) -> int:
        """The most choices that an item has."""
        return max(
            text.count("\n") + 1
            for split in get_args(Split)
            if len(self.texts(split))
            for text in self.data.column(split, 1)
        )

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> EncodedChoices:
        """Each question with each of its choices."""
        questions, choices = self.data.columns(split)
        return EncodedChoices(
            tokenizer, questions, choices, self.data.answers(split), self.choices, max_length, self.made_of(split)
        )

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over items."""
        import torch

        return torch.nn.functional.cross_entropy(self.logits(outputs, batch).float(), batch.labels)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[items, choices]``."""
        logits: torch.Tensor = outputs.logits
        return logits.masked_fill(batch.inputs["attention_mask"].sum(-1) == 1, _NEVER)

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
        """The accuracy over items. One whose logits are not numbers is predicted −1, which is never right.

        Raises:
            TaskError: the split has no texts.
        """
        import torch

        from bench.tasks.answered import answered

        encoded = self.encoded(split, tokenizer, max_length)
        predictions = [-1] * len(encoded)
        retention = Retention()
        for batch, logits, other in answered(self.logits, encoded, model, batch_size, uncompressed, answers):
            if other is not None:
                retention.add(logits, other, batch.labels)
            predicted = torch.where(logits.isnan().any(-1), -1, logits.argmax(-1))
            for item, prediction in zip(batch.items, predicted.tolist(), strict=True):
                predictions[item] = prediction
        right = [int(each == guess) for each, guess in zip(self.data.answers(split), predictions, strict=True)]
        found = quality({"accuracy": mean(right)}, "accuracy", predictions)
        return replace(found, metrics={**found.metrics, **(retention.metrics() if uncompressed is not None else {})})

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """The place that the right choice has most often in training; of several, the first."""
        counts, truth = Counter(self.data.answers("train")), list(self.data.answers("test"))
        guess = max(sorted(counts), key=counts.__getitem__)
        return Chance(
            f"choice {string.ascii_uppercase[guess % 26]}, which is right most often in training, guessed for each test item",
            {"accuracy": truth.count(guess) / len(truth)},
        )


def chosen(question: str, choices: Sequence[str], right: int) -> Item:
    """An item: `choices` are the lines of its second text, and its answer is the place of the right one."""
    return Item((question, "\n".join(choices)), right)


class EncodedChoices:
    """Questions, each with `width` choices, as token ids. In place of one that an item lacks stands a single token."""

    def __init__(
        self,
        tokenizer: Any,
        questions: Sequence[str],
        choices: Sequence[str],
        targets: Sequence[int],
        width: int,
        max_length: int,
        fingerprint: str | None = None,
    ) -> None:
        import torch

        from bench.tasks.tokens import EncodedTexts

        self._width = width
        self._targets = torch.tensor(list(targets))
        lines = [text.split("\n") for text in choices]
        self._counts = [len(each) for each in lines]
        pairs = (
            [question for question in questions for _ in range(width)],
            [line for each in lines for line in (each + each[:1] * width)[:width]],
        )
        made_of = f"{fingerprint} {width}" if fingerprint is not None else None
        self._pairs = EncodedTexts(tokenizer, pairs, torch.zeros(len(pairs[0])), max_length, made_of)
        self.lengths = [
            sum(int(length) for length in self._pairs.lengths[item * width : item * width + count]) + width - count
            for item, count in enumerate(self._counts)
        ]

    def __len__(self) -> int:
        return len(self._counts)

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order; inputs are ``[items, choices, tokens]``."""
        import torch

        width = self._width
        flat = self._pairs.batch([item * width + choice for item in items for choice in range(width)])
        inputs = {name: tensor.unflatten(0, (len(items), width)) for name, tensor in flat.inputs.items()}
        lacking = torch.arange(width) >= torch.tensor([self._counts[item] for item in items])[:, None]
        inputs["attention_mask"][..., 1:].masked_fill_(lacking[..., None], 0)
        return Batch(
            inputs,
            self._targets[torch.tensor(items)],
            tuple(self.lengths[item] for item in items),
            terms=(1,) * len(items),
            items=tuple(items),
        )
