"""Causal language modelling: predict each token of a text from those before it."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Split, TaskError
from bench.tasks.own import OwnData
from bench.tasks.passages import DividedPassages, divide, passages
from bench.tasks.rows import SUFFIXES
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
    def read(self) -> Iterable[str]:
        """Every text.

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
        hits = 0
        retention = Retention()
        # Blocks of like length go together, for little padding.
        order = sorted(range(len(blocks)), key=lambda block: blocks.lengths[block])
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = blocks.batch(order[start : start + batch_size]).to(device)
                loss, right = losses(model, batch, uncompressed, retention)
                hits += right
                for block, each in zip(batch.items, loss, strict=True):
                    nats[blocks.text_of[block]] += each
        quality = _quality(nats, hits, blocks.tokens, [len(text.encode("utf-8")) for text in self.texts(split)])
        return quality if uncompressed is None else replace(quality, metrics={**quality.metrics, **retention.metrics()})

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


def _quality(nats: Sequence[float], hits: int, tokens: int, sizes: Sequence[int]) -> Quality:
    total, size = math.fsum(nats), sum(sizes)
    try:
        perplexity = math.exp(total / tokens)
    except OverflowError:
        perplexity = math.inf
    metrics = {
        "bits_per_byte": total / math.log(2) / size,
        "perplexity": perplexity,
        "token_accuracy": hits / tokens,
    }
    share = len(sizes) / (math.log(2) * size)
    correct = tuple(each * share for each in nats) if math.isfinite(total) else ()
    return Quality(metrics, (), correct, {"nats": total, "tokens": tokens, "bytes": size})


class OwnText(LanguageModelling):
    """One's own text: a .txt file, or a column of a .csv or .jsonl file whose rows are texts, in UTF-8.

    A .txt file is cut at ends of lines into passages of some 2,000 characters, each of them a text of its own.
    """

    def __init__(self, table: DataTable, suite_folder: Path) -> None:
        super().__init__()
        assert isinstance(table, TextTable)
        self.own = OwnData(table, suite_folder, [table.text])
        self.name = self.own.name

    def read(self) -> Iterator[str]:
        """Every text.

        Raises:
            TaskError: the file or a row in it is wrong.
        """
        for rows in self.own.parts.values():
            if rows.suffix != ".txt":
                yield from (row.text(rows.columns[0]) for row in rows)
                continue
            content = rows.content()
            if not content.strip():
                raise rows.error("it is empty")
            yield from passages(content)
