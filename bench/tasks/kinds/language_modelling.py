"""Causal language modelling: predict each token of a text from those before it."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Split, TaskError
from bench.tasks.item_task import rank_by
from bench.tasks.items import Choice, Found, Item
from bench.tasks.own import OwnData
from bench.tasks.passages import DividedPassages, divide, passages
from bench.tasks.rows import SUFFIXES
from bench.tasks.scores import of_tokens, quality
from bench.tasks.table import DataTable, TextTable
from bench.tasks.texts import TextTask

if TYPE_CHECKING:
    import torch

    from bench.models.structure import Structure
    from bench.tasks.blocks import Blocks


class LanguageModelling(TextTask[DividedPassages, "Blocks"]):
    """Causal language modelling on the texts that :meth:`read` finds. See :func:`divide` for what becomes of them.

    An item is a block of at most ``max_length`` tokens of one text. Each block begins with the tokenizer's token for a
    beginning, so that every token of the text is predicted exactly once, from those before it in its block.
    """

    kind = "causal_lm"
    metrics = ("bits_per_byte", "perplexity", "token_accuracy")
    primary = "bits_per_byte"
    learns = "from texts alone"
    reads = (".txt", *SUFFIXES)
    auto_class = "AutoModelForCausalLM"
    new_head = False
    generates = True
    peft_task_type = "CAUSAL_LM"
    predicts_classes = True

    table = TextTable

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> OwnText:
        """The texts of one's own file."""
        return OwnText(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @abc.abstractmethod
    def read(self) -> Iterable[str | Found]:
        """Every text, with its split where there are official ones.

        Raises:
            TaskError: the data cannot be used.
        """

    def divided(self) -> DividedPassages:
        """Every text in its split.

        Raises:
            TaskError: the data cannot be used.
        """
        return divide(self.read())

    def problems(self) -> list[str]:
        """Say why the data cannot be used."""
        try:
            texts = self.data.texts
        except TaskError as error:
            return [str(error)]
        count = len(texts["train"]) + len(texts["test"]) + len(texts["validation"])
        needed: dict[Split, int] = {"train": 70, "test": 20}
        return [
            f"{self.name}: {count} different texts are too few: none falls into {split}, "
            f"which gets about {share} % of all; add more"
            for split, share in needed.items()
            if not texts[split]
        ]

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """A model that reads in both directions has seen the token that it is to predict."""
        if structure.both_ways:
            return (
                f"a {model_type} model reads in both directions and sees the token that it is to predict; "
                "use a decoder, such as tiny-llama"
            )
        return ""

    # -- in a stage's own process ----------------------------------------------------------------------------

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over predicted tokens."""
        from bench.tasks.next_token import criterion

        return criterion(outputs, batch)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[predicted tokens, vocabulary]``."""
        from bench.tasks.next_token import logits

        return logits(outputs, batch)

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
        """Bits per byte, perplexity and token accuracy. Of logits over a vocabulary, none are kept as `answers`.

        ``correct`` holds each text's bits over the mean bytes of a text: their mean is the bits per byte. It is empty
        where a loss is not finite. ``extra`` has the sums that the metrics come from.

        Raises:
            TaskError: the split has no texts.
        """
        import torch

        from bench.models.modes import device_of
        from bench.tasks.next_token import losses

        assert not isinstance(uncompressed, list), "answers of a language model are not kept"
        blocks = self.encoded(split, tokenizer, max_length)
        device = device_of(model)
        nats = [0.0] * len(self.texts(split))
        hits, tokens = [0] * len(nats), [0] * len(nats)
        retention = Retention()
        # Blocks of like length go together, for little padding.
        order = sorted(range(len(blocks)), key=lambda block: blocks.lengths[block])
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = blocks.batch(order[start : start + batch_size]).to(device)
                found = losses(model, batch, uncompressed, retention)
                for block, lost, right, terms in zip(batch.items, *found, batch.terms, strict=True):
                    text = blocks.text_of[block]
                    nats[text] += lost
                    hits[text] += right
                    tokens[text] += terms
        sizes = [len(text.encode("utf-8")) for text in self.texts(split)]
        extra = {"nats": math.fsum(nats), "tokens": sum(tokens), "bytes": sum(sizes)}
        result = quality(of_tokens(nats, hits, tokens, sizes, self.primary), self.primary, extra=extra)
        return result if uncompressed is None else replace(result, metrics={**result.metrics, **retention.metrics()})

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """All tokens of the vocabulary are equally likely."""
        size = len(tokenizer)
        tokens = self.encoded("test", tokenizer, max_length).tokens
        bytes_ = sum(len(text.encode("utf-8")) for text in self.texts("test"))
        metrics = {
            "bits_per_byte": tokens * math.log2(size) / bytes_,
            "perplexity": float(size),
            "token_accuracy": 1 / size,
        }
        return Chance(f"each of the {size:,} tokens of the vocabulary, equally likely at each place", metrics)

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> Blocks:
        """Texts in blocks."""
        from bench.tasks.blocks import Blocks

        return Blocks(tokenizer, self.texts(split), max_length)


class OwnText(LanguageModelling):
    """One's own text: a .txt file, or a column of a .csv or .jsonl file whose rows are texts, in UTF-8.

    A .txt file is cut at ends of lines into passages of some 2,000 characters, each of them a text of its own.
    """

    def __init__(self, table: DataTable, suite_folder: Path) -> None:
        super().__init__()
        assert isinstance(table, TextTable)
        self.own = OwnData(table, suite_folder, [table.text])
        self.name = self.own.name
        self.choice = Choice(table.max_items, table.few_shot, table.near_duplicates, by_answer=False)
        self.group_by_length = table.group_by_length
        rank_by(self, table.metric)

    def divided(self) -> DividedPassages:
        """Every text in its split.

        Raises:
            TaskError: the data cannot be used.
        """
        return divide(self.read(), self.choice)

    def read(self) -> Iterator[Found]:
        """Every text, with its split where the data says so.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        for split, rows in self.own.parts.items():
            if rows.suffix != ".txt":
                yield from ((split, Item((row.text(rows.columns[0]),), None)) for row in rows)
                continue
            content = rows.content()
            if not content.strip():
                raise rows.error("it is empty")
            yield from ((split, Item((passage,), None)) for passage in passages(content))
