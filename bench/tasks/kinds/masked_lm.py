"""Masked language modelling: fill the gaps of a text; and, if asked, tell whether two parts of a text follow one another."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.tasks.base import IGNORED, Answers, Batch, Chance, Quality, Retention, Split, TaskError, hash_fraction
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Found, Item
from bench.tasks.rows import Row
from bench.tasks.scores import jackknifed, mean, quality
from bench.tasks.table import DataTable, TextTable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.models.structure import Structure
    from bench.tasks.tokens import Numbers

    Array = np.ndarray[Any, np.dtype[np.float64]]

MASKED = 0.15
"""The share of a text's tokens that are predicted, at least one."""
_MASK, _RANDOM = 0.8, 0.1  # of those, which become the mask token, and which any token; the others stay
_ENDS = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


class MaskedTable(TextTable):
    """One's own texts."""

    next_sentence: bool = Field(
        False,
        description="read two parts of a text, of which half of the texts have the second part of another one, and learn "
        "which do, as BERT does",
    )


class MaskedLM(ItemTask["MaskedTexts"]):
    """The tokens that stand at :data:`MASKED` of the places of a text, as in BERT: Devlin et al. (2019),
    https://doi.org/10.18653/v1/N19-1423.

    Of the places, 80 % hold the mask token, 10 % any token and 10 % their own. Training draws them anew for each item in
    each epoch; evaluation always has the same ones. A text that does not fit into ``max_length`` is read in windows.
    """

    kind = "masked_lm"
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "masked_accuracy")
    primary = "perplexity"
    learns = "from texts with gaps"
    table = MaskedTable
    auto_class = "AutoModelForMaskedLM"
    new_head = False
    reads_texts = False  # their tokens are hidden
    predicts_classes = True

    @classmethod
    def from_table(cls, table: DataTable, suite_folder: Path) -> MaskedLM:
        """One's own data."""
        assert isinstance(table, MaskedTable)
        return (PairedLM if table.next_sentence else cls)(table, suite_folder)

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: MaskedTable) -> tuple[str, ...]:
        """The text."""
        return (table.text,)

    def item(self, row: Row) -> Item:
        """The text of a row."""
        return Item((row.text(row.rows.columns[0]).strip(),), None)

    def training_items(self) -> int | None:
        """How many windows there are depends on the tokenizer."""
        return None

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> MaskedTexts:
        """Texts in windows."""
        return MaskedTexts(tokenizer, self.data.columns(split), None, max_length, self.made_of(split))

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Batches as of any text task; with a generator, gaps are drawn by its first seed, the epoch and the item."""
        if generator is None:
            yield from super().batches(split, tokenizer, batch_size=batch_size, max_length=max_length)
            return
        encoded, seed = self.encoded(split, tokenizer, max_length), generator.initial_seed()
        order = enumerate(self.order(encoded, batch_size, generator))
        while some := list(itertools.islice(order, batch_size)):
            draws = [(seed, 1 + number // len(encoded)) for number, _ in some]
            yield encoded.batch([item for _, item in some], draws)

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over gaps."""
        import torch

        labels = batch.labels[:, :-1]
        total = torch.nn.functional.cross_entropy(
            self.logits(outputs, batch).float(), labels[labels != IGNORED], reduction="sum"
        )
        return total / max(1, batch.weight)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[gaps, vocabulary]``."""
        labels = batch.labels[:, :-1]
        logits: torch.Tensor = getattr(outputs, self.logit_names[0])
        return logits[:, -labels.shape[1] :][
            labels != IGNORED
        ]  # a prompt's virtual tokens stand before those of the text

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
        """Perplexity and accuracy of the gaps, and of pairs. Of logits over a vocabulary, none are kept as `answers`.

        Raises:
            TaskError: the split has no texts.
        """
        import numpy as np
        import torch

        from bench.models.modes import device_of

        assert not isinstance(uncompressed, list), "answers of a language model are not kept"
        encoded = self.encoded(split, tokenizer, max_length)
        sums = np.zeros((len(self.texts(split)), 3))  # of each text: nats, right gaps, gaps
        told = np.zeros(len(sums), dtype=int)
        retention = Retention()
        order = sorted(range(len(encoded)), key=lambda item: encoded.lengths[item])
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                batch = encoded.batch(order[start : start + batch_size]).to(device_of(model))
                outputs = model(**batch.inputs)
                logits, gaps = self.logits(outputs, batch), batch.labels[:, :-1] != IGNORED
                labels = batch.labels[:, :-1][gaps]
                if uncompressed is not None:
                    retention.add(logits, self.logits(uncompressed(**batch.inputs), batch), labels)
                losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none").double()
                # A loss that is no number comes from logits that are none, and those predict nothing.
                right = (logits.argmax(-1) == labels) & losses.isfinite()
                texts = [encoded.text(item) for item in batch.items]
                each = torch.stack([losses, right.double(), torch.ones_like(losses)], 1)
                np.add.at(sums, np.repeat(texts, gaps.sum(1).tolist()), each.cpu().numpy())
                if "pair_accuracy" in self.metrics:
                    scores = outputs.seq_relationship_logits
                    sure = (scores.argmax(-1) == batch.labels[:, -1]) & scores.isfinite().all(-1)
                    told[texts] = sure.cpu().numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            found = {
                "perplexity": jackknifed(sums, lambda of: np.exp(of[:, 0] / of[:, 2])),
                "masked_accuracy": jackknifed(sums, lambda of: of[:, 1] / of[:, 2]),
            }
        if "pair_accuracy" in self.metrics:
            found["pair_accuracy"] = mean(told.tolist())
        scored = quality(found, self.primary)
        return scored if uncompressed is None else replace(scored, metrics={**scored.metrics, **retention.metrics()})

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """All tokens of the vocabulary are equally likely."""
        size = len(tokenizer)
        return Chance(
            f"each of the {size:,} tokens of the vocabulary, equally likely in each gap",
            {"perplexity": float(size), "masked_accuracy": 1 / size},
        )


class PairedLM(MaskedLM):
    """Gaps in two parts of a text, and whether the parts follow one another, as BERT was pretrained.

    A text that has an end of a sentence is cut at the one next to its middle, others are left out and counted; half of the
    texts, by a hash, get the second part of another text of their split. The loss of a pair counts once for each of its gaps,
    so that the loss is one mean over gaps: of pairs with equally many gaps, it is BERT's sum of two means.
    """

    metrics = (*MaskedLM.metrics, "pair_accuracy")
    auto_class = "AutoModelForPreTraining"
    logit_names = ("prediction_logits", "seq_relationship_logits")

    def found(self) -> Iterator[Found]:
        """Every text in its two parts."""
        for split, item in super().found():
            if parts := halves(item.texts[0]):
                yield split, Item(parts, None)
            else:
                self.noted["one_sentence"] += 1

    def training_items(self) -> int | None:
        """How many pairs training has."""
        return len(self.texts("train"))

    def model_problem(self, model_type: str, structure: Structure) -> str:
        """A model of pairs needs a head for them, too."""
        if structure.auto_classes and "AutoModelForNextSentencePrediction" not in structure.auto_classes:
            return (
                f"transformers has no head for `next_sentence` for a {model_type} model; leave that key out, or use a model of "
                "BERT's architecture, such as minilm"
            )
        return super().model_problem(model_type, structure)

    def pairs(self, split: Split) -> tuple[list[str], list[str], list[int]]:
        """First parts, second parts, and whether they are of two texts."""
        return paired(*self.data.columns(split))

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> MaskedTexts:
        """Pairs of parts."""
        firsts, seconds, apart = self.pairs(split)
        return MaskedTexts(tokenizer, [firsts, seconds], apart, max_length, self.made_of(split))

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over gaps; plus that of a pair for each of its gaps."""
        import torch

        losses = torch.nn.functional.cross_entropy(
            outputs.seq_relationship_logits.float(), batch.labels[:, -1], reduction="none"
        )
        gaps = (batch.labels[:, :-1] != IGNORED).sum(1)
        return super().criterion(outputs, batch) + (losses * gaps).sum() / max(1, batch.weight)

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """As of gaps alone, and each pair is what most training pairs are."""
        training, test = self.pairs("train")[2], self.pairs("test")[2]
        guess = int(2 * sum(training) > len(training))
        found = super().chance(tokenizer, max_length)
        return Chance(
            f"{found.about}, and each pair {'not ' * guess}following one another",
            {**found.metrics, "pair_accuracy": test.count(guess) / len(test)},
        )


def halves(text: str) -> tuple[str, str] | None:
    """`text` in two, at the end of a sentence next to its middle; None where it has one sentence."""
    cuts = [found.span() for found in _ENDS.finditer(text) if found.start() and found.end() < len(text)]
    if not cuts:
        return None
    start, end = min(cuts, key=lambda cut: abs(sum(cut) - len(text)))
    return text[:start], text[end:]


def paired(firsts: Sequence[str], seconds: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """First parts, second parts, and whether they are of different texts: 0 or 1, as BERT's head has it."""
    ones, own = list(firsts), list(seconds)
    found, apart = list(own), [0] * len(own)
    for place, (one, two) in enumerate(zip(ones, own, strict=True)):
        other = own[(place + 1) % len(own)]
        if other != two and hash_fraction(f"{one}\x1f{two}") < 0.5:
            found[place], apart[place] = other, 1
    return ones, found, apart


class MaskedTexts:
    """Windows on texts, or pairs of parts, as token ids; gaps are drawn for a batch.

    Labels are ``[items, tokens + 1]``: the token of a gap, else :data:`IGNORED`, and last whether a pair is of two texts.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[Sequence[str]],
        apart: Sequence[int] | None,
        max_length: int,
        fingerprint: str | None = None,
    ) -> None:
        import numpy as np

        from bench.tasks.tokens import PART, Part, Tokens, fills, in_parts, name_in_cache, with_places

        with_places(tokenizer)
        if tokenizer.mask_token_id is None:
            raise TaskError(f"{type(tokenizer).__name__} has no mask token; use an encoder that was trained with one")
        self._tokenizer, self._apart, self._fill = tokenizer, apart, fills(tokenizer)
        # A token that the vocabulary lacks is a token of the text.
        self._special = np.array(sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}), dtype=np.int32)

        def rows() -> Iterator[Mapping[str, Sequence[int]]]:
            for start in range(0, len(texts[0]), PART):
                part = [list(each[start : start + PART]) for each in texts]
                found = tokenizer(
                    *part,
                    truncation=True,
                    max_length=max_length,
                    return_overflowing_tokens=apart is None,
                    return_attention_mask=False,
                )
                of = found.get("overflow_to_sample_mapping", range(len(part[0])))
                for window, text in enumerate(of):
                    ids = {name: found[name][window] or [fill] for name, fill in self._fill.items() if name in found}
                    yield {**ids, "text": [start + text]}

        def make() -> Iterator[Part]:
            return in_parts(rows())

        made_of = (fingerprint, max_length, apart is None)
        self._tokens = Tokens(make, name_in_cache(tokenizer, *made_of) if fingerprint is not None else None)
        self.lengths: Sequence[int] = self._tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def text(self, item: int) -> int:
        """Which text an item is of."""
        return int(self._tokens.row("text", item)[0])

    def batch(self, items: Sequence[int], draws: Sequence[tuple[int, int]] | None = None) -> Batch:
        """These items, in this order; `draws` are numbers that the gaps of each depend on, beside the item."""
        import torch

        from bench.tasks.tokens import padded, real

        lengths = tuple(int(self.lengths[item]) for item in items)
        gapped = [self._gaps(item, *draw) for item, draw in zip(items, draws or [(0, 0)] * len(items), strict=True)]
        inputs = {
            name: padded([self._tokens.row(name, item) for item in items], fill)
            for name, fill in self._fill.items()
            if name in self._tokens.names
        }
        inputs["input_ids"] = padded([ids for ids, _ in gapped], self._fill["input_ids"])
        inputs["attention_mask"] = real(lengths)
        apart = torch.tensor([IGNORED if self._apart is None else self._apart[item] for item in items])
        labels = torch.cat([padded([labels for _, labels in gapped], IGNORED), apart[:, None]], 1)
        terms = tuple(int((labels != IGNORED).sum()) for _, labels in gapped)
        return Batch(inputs, labels, lengths, terms, tuple(items))

    def _gaps(self, item: int, *draw: int) -> tuple[Numbers, Numbers]:
        """An item's ids with gaps, and the ids of these, else :data:`IGNORED`."""
        import numpy as np

        ids = self._tokens.row("input_ids", item).copy()
        ordinary = np.flatnonzero(~np.isin(ids, self._special))
        random = np.random.default_rng((*draw, item))
        gaps = random.permutation(ordinary)[: max(1, round(MASKED * len(ordinary)))]
        labels = np.full_like(ids, IGNORED)
        labels[gaps] = ids[gaps]
        fate, any_token = random.random(len(gaps)), random.integers(len(self._tokenizer), size=len(gaps))
        ids[gaps] = np.select(
            [fate < _MASK, fate < _MASK + _RANDOM], [self._tokenizer.mask_token_id, any_token], ids[gaps]
        )
        return ids, labels
