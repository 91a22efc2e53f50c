"""Causal language modelling: predict each token of a text from those before it."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tasks.base import IGNORED, Answers, Batch, Chance, Quality, Retention, Split, TaskError
from bench.tasks.item_task import rank_by
from bench.tasks.items import Choice, Found, Item
from bench.tasks.own import OwnData
from bench.tasks.passages import DividedPassages, divide, passages
from bench.tasks.rows import SUFFIXES
from bench.tasks.scores import Score, jackknifed, quality
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
        import torch

        logits = _predicting(outputs, batch).flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten(), ignore_index=IGNORED)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[predicted tokens, vocabulary]``."""
        return _predicting(outputs, batch)[batch.labels[:, 1:] != IGNORED]

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
                loss, right = (torch.zeros(batch.samples, dtype=torch.float64, device=device) for _ in range(2))
                width = max(1, LOGITS // (batch.samples * _vocabulary(model)))
                parts = _parts(model, batch, width)
                # Strictly, or the uncompressed's would not come to its end.
                both = (
                    ((part, None) for part in parts)
                    if uncompressed is None
                    else zip(parts, _parts(uncompressed, batch, width), strict=True)
                )
                for (where, logits), other in both:
                    labels = batch.labels[:, 1:][:, where]
                    if other is not None:
                        real = labels != IGNORED
                        retention.add(logits[real], other[1][real], labels[real])
                    logits = logits.float()
                    losses = torch.nn.functional.cross_entropy(
                        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
                    )
                    # A loss that is no number comes from logits that are none, and those predict nothing.
                    right += ((logits.argmax(-1) == labels) & losses.isfinite()).sum(1)
                    loss += losses.sum(1, dtype=torch.float64)
                of_each = zip(batch.items, loss.tolist(), right.tolist(), batch.terms, strict=True)
                for block, lost, guessed, terms in of_each:
                    text = blocks.text_of[block]
                    nats[text] += lost
                    hits[text] += int(guessed)
                    tokens[text] += terms
        sizes = [len(text.encode("utf-8")) for text in self.texts(split)]
        found = _quality(self.primary, nats, hits, tokens, sizes)
        return found if uncompressed is None else replace(found, metrics={**found.metrics, **retention.metrics()})

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


LOGITS = 2**28
"""Logits of a batch that are computed and looked at together, at most: 1 GB of float32, of which a loss takes several."""


def _parts(model: torch.nn.Module, batch: Batch, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Columns of ``batch.labels[:, 1:]``, and the logits that predict them, ``[items, columns, vocabulary]``.

    `width` columns at a time, most often all. The body of the model, which has no logits, is run
    once; where the head cannot be run for some columns alone, all are computed and some are looked at.
    """
    columns = batch.labels.shape[1] - 1
    slices = [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
    if len(slices) > 1 and (body := _apart(model)) is not None:
        import torch

        with _once(body):
            for where in slices:
                # Counted from the end: a prompt's virtual tokens stand before those of the batch.
                keep = torch.arange(where.start, where.stop, device=batch.labels.device) - batch.labels.shape[1]
                yield where, model(**batch.inputs, logits_to_keep=keep).logits
        return
    logits = _predicting(model(**batch.inputs), batch)
    for where in slices:
        yield where, logits[:, where]


def _vocabulary(model: torch.nn.Module) -> int:
    """How many classes its logits have; 1 where that is not known, and all are looked at together."""
    from bench.models.architecture import config

    try:
        return int(config(model).vocab_size)
    except AttributeError:
        return 1


def _apart(model: torch.nn.Module) -> torch.nn.Module | None:
    """The body of `model`, where its head is a plain layer that can be run for some positions alone."""
    import torch

    from bench.models import signature
    from bench.models.architecture import body, unwrapped

    try:
        inner, below = unwrapped(model), body(model)
        plain = type(inner.get_output_embeddings()) is torch.nn.Linear
        some = "logits_to_keep" in signature.arguments(model)
    except AttributeError:
        return None
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    return below if plain and some and below is not inner and not compiled else None


@contextlib.contextmanager
def _once(body: torch.nn.Module) -> Iterator[None]:
    """Inside, `body` is run at its first call, and gives the same answer at each that follows."""
    own, forward = "forward" in vars(body), body.forward
    kept: list[Any] = []

    def first_alone(*args: Any, **options: Any) -> Any:
        if not kept:
            kept.append(forward(*args, **options))
        return kept[0]

    body.forward = first_alone
    try:
        yield
    finally:
        if own:
            body.forward = forward
        else:
            del body.forward


def _predicting(outputs: Any, batch: Batch) -> torch.Tensor:
    """The logits that predict ``batch.labels[:, 1:]``. A prompt's virtual tokens stand before those of the batch."""
    logits: torch.Tensor = outputs.logits[:, -batch.labels.shape[1] : -1]
    return logits


def _quality(
    primary: str, nats: Sequence[float], hits: Sequence[int], tokens: Sequence[int], sizes: Sequence[int]
) -> Quality:
    """From the sums of each text."""
    import numpy as np

    total, count, size = math.fsum(nats), sum(tokens), sum(sizes)
    try:
        perplexity = math.exp(total / count)
    except OverflowError:
        perplexity = math.inf
    share = len(sizes) / (math.log(2) * size)
    scores = {
        "bits_per_byte": Score(total / math.log(2) / size, tuple(each * share for each in nats)),
        "perplexity": Score(perplexity),
        "token_accuracy": Score(sum(hits) / count),
    }
    if not scores[primary].items and math.isfinite(perplexity):
        sums = np.array([nats, hits, tokens], dtype=np.float64).T
        of_sums = {
            "perplexity": lambda sums: np.exp(sums[:, 0] / sums[:, 2]),
            "token_accuracy": lambda sums: sums[:, 1] / sums[:, 2],
        }
        scores[primary] = replace(scores[primary], items=jackknifed(sums, of_sums[primary]).items)
    return quality(scores, primary, extra={"nats": total, "tokens": count, "bytes": size})


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
