"""Sequence to sequence: write one text for another, as in translation and summarisation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from bench.recipe.claim import Claim
from bench.tasks.base import IGNORED, Answers, Batch, Quality, Retention, Split
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, quality
from bench.tasks.table import DataTable, Name, TextTable

if TYPE_CHECKING:
    import torch

    from bench.models.structure import Structure
    from bench.tasks.sequences import Sequences


class SequencesTable(TextTable):
    """Texts, each with the text to be written for it."""

    target: Name = Field("target", description="the column that holds the text to be written")
    template: Name = Field(
        "{text}", description='what the model reads, with the text in it, as "translate English to German: {text}"'
    )
    max_target_length: int = Field(
        128, ge=2, description="tokens of a target, at most; longer ones are cut for training"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="tokens that the model writes, at most; as many as a target may have otherwise"
    )

    @field_validator("template")
    @classmethod
    def _has_text(cls, template: str) -> str:
        if len(re.findall(r"\{text\}", template)) != 1:
            raise ValueError(f'the text is put in place of {{text}}, which stands in it once, found "{template}"')
        return template


class SequenceToSequence(ItemTask["Sequences"]):
    """Texts, each with the text to be written for it, by a model with an encoder and a decoder.

    A text may have several right ones, which are items of their own.
    """

    kind = "seq2seq"
    metrics = ("rouge_l", "rouge1", "rouge2", "bleu", "chrf", "exact_match", "perplexity")
    primary = "rouge_l"
    learns = "from texts, each with the text to be written for it"
    table = SequencesTable
    auto_class = "AutoModelForSeq2SeqLM"
    new_head = False
    generates = True
    peft_task_type = "SEQ_2_SEQ_LM"
    reads_texts = False
    predicts_classes = True
    several_answers = True

    template: str = "{text}"
    """What the model reads."""
    max_target_length: int = 128
    """Tokens of a target at most, its end included."""

    def __init__(self, table: DataTable | None = None, suite_folder: Path = Path()) -> None:
        super().__init__(table, suite_folder)
        self.max_new_tokens = self.max_target_length
        if isinstance(table, SequencesTable):
            self.template, self.max_target_length = table.template, table.max_target_length
            self.max_new_tokens = table.max_new_tokens or table.max_target_length

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: SequencesTable) -> tuple[str, ...]:
        """The text and its target."""
        return table.text, table.target

    def item(self, row: Row) -> Item:
        """A text with its target."""
        text, target = (row.text(column).strip() for column in row.rows.columns)
        return Item((text,), target)

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """It has an encoder that reads and a decoder that writes, with room for what it writes."""
        known = structure.encoder_decoder or "AutoModelForSeq2SeqLM" in structure.auto_classes
        if not known:
            mend = (
                "use an encoder-decoder, such as T5 or BART"
                if structure.both_ways
                else 'give kind = "instruction_tuning", with the text as `prompt` and the target as `response`, or use an '
                "encoder-decoder, such as T5 or BART"
            )
            return f"a {model_type} model has no encoder and decoder; {mend}"
        longest = max(self.max_target_length, self.max_new_tokens)
        if structure.positions is not None and longest > structure.positions:
            return (
                f"max_target_length: the model has {structure.positions} positions, and targets and what is written may have "
                f"{longest} tokens; lower max_target_length and max_new_tokens"
            )
        return ""

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> Sequences:
        """Texts and their targets as token ids."""
        from bench.tasks.sequences import Sequences

        sources = [self.template.replace("{text}", text) for text in self.texts(split)]
        made_of = f"{self.made_of(split)} {self.template}"
        return Sequences(tokenizer, sources, self.data.answers(split), max_length, self.max_target_length, made_of)

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over the targets' tokens."""
        import torch

        logits = outputs.logits.flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), ignore_index=IGNORED)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[tokens of targets, vocabulary]``."""
        logits: torch.Tensor = outputs.logits[batch.labels != IGNORED]
        return logits

    def evidence(self, model: torch.nn.Module, tokenizer: Any, batch: Batch, max_length: int) -> Iterator[Claim]:
        """The loss is over the targets' tokens alone."""
        targets = self.data.answers("train")
        yield targets_alone(tokenizer, batch, [targets[item] for item in batch.items], self.max_target_length)

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
        """Scores of what the model writes greedily, and the perplexity of the targets.

        ``correct`` has each item's part in the primary one, where that is known. ``extra`` has the nats and tokens of the
        targets, and the seconds that writing took.

        Raises:
            TaskError: the split has no texts.
        """
        import torch

        from bench.models.modes import device_of
        from bench.tasks.generate import greedy
        from bench.tasks.overlap import bleu, chrf, exact_match, rouge

        assert not isinstance(uncompressed, list), "answers of a language model are not kept"
        encoded = self.encoded(split, tokenizer, max_length)
        nats, tokens = 0.0, 0
        retention = Retention()
        order = sorted(range(len(encoded)), key=lambda item: encoded.lengths[item])
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = encoded.batch(order[start : start + batch_size]).to(device_of(model))
                logits = self.logits(model(**batch.inputs), batch)
                right = batch.labels[batch.labels != IGNORED]
                nats += float(torch.nn.functional.cross_entropy(logits.float(), right, reduction="sum").double())
                tokens += len(right)
                if uncompressed is not None:
                    retention.add(logits, self.logits(uncompressed(**batch.inputs), batch), right)
        sources = [encoded.source(item) for item in range(len(encoded))]
        written = greedy(model, tokenizer, sources, batch_size=batch_size, max_new_tokens=self.max_new_tokens)
        targets = list(self.data.answers(split))
        scores = {
            **rouge(targets, written.texts, "rouge_l", "rouge1", "rouge2"),
            "bleu": bleu(targets, written.texts),
            "chrf": chrf(targets, written.texts),
            "exact_match": exact_match(targets, written.texts),
            "perplexity": Score(math.exp(nats / tokens) if nats / tokens < 700 else math.inf),
        }
        extra = {"nats": nats, "tokens": tokens, "generation_seconds": written.seconds}
        result = quality(scores, self.primary, extra=extra)
        return result if uncompressed is None else replace(result, metrics={**result.metrics, **retention.metrics()})


def targets_alone(tokenizer: Any, batch: Batch, targets: Sequence[str], max_target_length: int) -> Claim:
    """That the labels spell the right target of each item; of one that is cut, its beginning.

    It reads labels alone, and tokenizes the targets by themselves.
    """
    wrong = 0
    for labels, target in zip(batch.labels.tolist(), targets, strict=True):
        alone = tokenizer(text_target=target, add_special_tokens=False)["input_ids"]
        in_loss = [label for label in labels if label != IGNORED]
        # Without white space, which tokenizers give back in their own ways.
        found, wanted = ("".join(tokenizer.decode(ids, skip_special_tokens=True).split()) for ids in (in_loss, alone))
        cut = len(alone) + 1 >= max_target_length
        wrong += found != wanted and not (cut and found and wanted.startswith(found))
    return Claim(
        "the loss is over the tokens of the right targets", not wrong, f"{len(targets) - wrong} of {len(targets)} items"
    )
