"""The objectives of self-supervised pretraining: tasks made of another task's items, without their labels."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bench.models.modes import device_of
from bench.stage.evidence import Claim
from bench.tasks.base import IGNORED, Answers, Batch, Quality, Split, Task, first


def generator_of(seed: int) -> torch.Generator:
    """A generator of its own for random numbers that begin with `seed`."""
    return torch.Generator().manual_seed(seed)


class Objective(Task):
    """A self-supervised objective on another task's items."""

    def __init__(self, of: Task) -> None:
        self.of = of
        self.name, self.kind = of.name, of.kind  # type: ignore[misc]

    def fingerprint(self) -> str:
        return self.of.fingerprint()

    def model_options(self) -> tuple[str, dict[str, Any]]:
        return self.of.model_options()

    def batches(
        self,
        split: Split,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        draw = generator_of(generator.initial_seed() + 1 if generator else 0)  # not the numbers that items are drawn by
        options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "generator": generator}
        for batch in self.of.batches(split, tokenizer, **options):
            yield self.change(batch, tokenizer, max_length, draw)

    @abc.abstractmethod
    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        """The objective's batch made of the task's."""

    @abc.abstractmethod
    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        """What must hold of the objective's batches beside the task's."""

    def rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the labels that they are to predict."""
        return outputs.logits, batch.labels

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        logits, labels = self.rows(outputs, batch)
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / max(1, batch.weight)  # a micro-batch may have nothing to predict

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        logits, labels = self.rows(outputs, batch)
        return logits[labels != IGNORED]

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        split: Split = "test",
        uncompressed: nn.Module | Answers | None = None,
        answers: Answers | None = None,
    ) -> Quality:
        device = device_of(model)
        nats, weight = 0.0, 0
        with torch.no_grad():
            for batch in self.batches(split, tokenizer, batch_size=batch_size, max_length=max_length):
                there = batch.to(device)
                nats += float(self.criterion(model(**there.inputs), there)) * batch.weight
                weight += batch.weight
        return Quality({"loss": nats / weight})


class MaskedTokens(Objective):
    """Fill gaps, as in section 3.1 of BERT's paper."""

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        ids = batch.inputs["input_ids"]
        ordinary = _ordinary(batch, tokenizer)
        wanted = torch.tensor([_gaps(int(count)) for count in ordinary.sum(1)])
        # The highest of random numbers; those of special tokens are the lowest.
        order = torch.rand(ids.shape, generator=draw).masked_fill(~ordinary, -1).argsort(1, descending=True)
        chosen = order.argsort(1) < wanted[:, None]
        fate = torch.rand(ids.shape, generator=draw)
        random = torch.randint(len(tokenizer), ids.shape, generator=draw)
        gaps = ids.masked_fill(chosen & (fate < 0.8), tokenizer.mask_token_id)
        gaps = torch.where(chosen & (fate >= 0.9), random, gaps)
        return replace(
            batch,
            inputs={**batch.inputs, "input_ids": gaps},
            labels=ids.masked_fill(~chosen, IGNORED),
            terms=tuple(wanted.tolist()),
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        wrong = items = 0
        masked, kept, chosen = 0, 0, 0
        drawn: list[int] = []
        again = comparable = specials = 0
        before: torch.Tensor | None = None
        special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        for batch, original in batches:
            ids, true = batch.inputs["input_ids"].cpu(), original.inputs["input_ids"]
            labels = batch.labels.cpu()
            gaps = labels != IGNORED
            tokens = (original.inputs["attention_mask"].bool() & ~torch.isin(true, special)).sum(1)
            specials += int(torch.isin(true[gaps], special).sum())
            drawn += ids[gaps & (ids != true) & (ids != tokenizer.mask_token_id)].tolist()
            if before is not None and before.shape == gaps.shape:
                again += int((before == gaps).all(1).sum())
                comparable += len(gaps)
            before = gaps
            # 15 % to the nearest token, and one at least.
            enough = (gaps.sum(1) - 0.15 * tokens).abs() <= (1 - 0.15 * tokens).clamp(min=0.5) + 1e-4
            right = enough & (torch.where(gaps, labels, ids) == true).all(1)
            wrong += int((~right).sum())
            items += len(right)
            chosen += int(gaps.sum())
            masked += int((ids[gaps] == tokenizer.mask_token_id).sum())
            kept += int((ids[gaps] == true[gaps]).sum())
            if chosen > 4000:
                break
        yield Claim(
            "15 % of each text's tokens are to be predicted, and the others are as they were",
            items > 0 and not wrong,
            f"{items - wrong} of {items} texts, {chosen:,} tokens",
        )
        yield Claim(
            "of these 80 % are masked and 10 % stay",
            _near(masked, chosen, 0.8) and _near(kept, chosen, 0.1),
            f"{masked / max(1, chosen):.1%} and {kept / max(1, chosen):.1%}",
        )
        yield Claim("no special token is to be predicted", not specials, f"{specials} of {chosen:,}")
        count, vocabulary = max(1, len(drawn)), len(tokenizer)
        mean = sum(drawn) / count
        # Of numbers that are drawn evenly: the deviation of one is a twelfth's root of the range.
        near = abs(mean - (vocabulary - 1) / 2) <= 5 * vocabulary / math.sqrt(12 * count) + 1
        yield Claim(
            "random tokens are drawn from the whole vocabulary",
            near or len(drawn) < 8,
            f"{len(drawn)}, {mean:.0f} in the mean",
        )
        yield Claim(
            "each batch has gaps at other places",
            comparable < 8 or again < 0.5 * comparable,
            f"{again} of {comparable} texts have those of the text before",
        )


class NextToken(Objective):
    """Predict each token from those before it."""

    def rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs.logits[:, :-1], batch.labels[:, 1:]

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
        return replace(
            batch, labels=ids.masked_fill(~real, IGNORED), terms=tuple(length - 1 for length in batch.lengths)
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        batch, original = next(batches)
        ids, real = original.inputs["input_ids"], original.inputs["attention_mask"].bool()
        same = (batch.labels.cpu()[real] == ids[real]).all() and (batch.labels.cpu()[~real] == IGNORED).all()
        yield Claim("the labels are the texts' own tokens", bool(same), f"{batch.weight} to predict")


class NextSentence(Objective):
    """Tell a text's own second half (0) from another text's (1), as in section 3.1 of BERT's paper."""

    def change(self, batch: Batch, tokenizer: Any, max_length: int, draw: torch.Generator) -> Batch:
        count = batch.samples
        labels = torch.randint(2, (count,), generator=draw)
        shift = torch.randint(1, max(2, count), (count,), generator=draw)
        halves = _halves(batch, tokenizer)
        rows, kinds = [], []
        for item, (label, step) in enumerate(zip(labels.tolist(), shift.tolist(), strict=True)):
            one, two = list(halves[item][0]), list(halves[(item + label * step) % count][1])
            while len(one) + len(two) + 3 > max_length:
                (one if len(one) > len(two) else two).pop()
            rows.append([tokenizer.cls_token_id, *one, tokenizer.sep_token_id, *two, tokenizer.sep_token_id])
            kinds.append([0] * (len(one) + 2) + [1] * (len(two) + 1))
        lengths = tuple(map(len, rows))
        width = max(lengths)
        pad = first(tokenizer.pad_token_id, 0)
        return Batch(
            inputs={
                "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
                "token_type_ids": torch.tensor([kind + [0] * (width - len(kind)) for kind in kinds]),
                "attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long(),
            },
            labels=labels,
            lengths=lengths,
            terms=(1,) * count,
            items=batch.items,
        )

    def claims(self, tokenizer: Any, batches: Iterator[tuple[Batch, Batch]]) -> Iterator[Claim]:
        wrong = items = other = 0
        for batch, original in batches:
            halves = _halves(original, tokenizer)
            kinds = batch.inputs["token_type_ids"].cpu()
            ids, ordinary = batch.inputs["input_ids"].cpu(), _ordinary(batch, tokenizer).cpu()
            for item, label in enumerate(batch.labels.tolist()):
                one, two = (ids[item][ordinary[item] & (kinds[item] == kind)].tolist() for kind in (0, 1))
                sources = [second for number, (_, second) in enumerate(halves) if (number == item) == (label == 0)]
                follows = any(two == source[: len(two)] for source in sources)
                wrong += not (follows and one == halves[item][0][: len(one)])
                other += label
                items += 1
        yield Claim(
            "second halves are a text's own or another's, as their labels say",
            items > 0 and not wrong,
            f"{items - wrong} of {items}",
        )
        yield Claim("half of them are another's", _near(other, items, 0.5), f"{other / max(1, items):.1%}")


OBJECTIVES: dict[str, type[Objective]] = {"mlm": MaskedTokens, "clm": NextToken, "nsp": NextSentence}


def _gaps(tokens: int) -> int:
    """How many of a text's tokens are to be predicted: 15 %, and at least one."""
    return min(tokens, max(1, round(0.15 * tokens)))


def _ordinary(batch: Batch, tokenizer: Any) -> torch.Tensor:
    """Where tokens are real and not special."""
    ids = batch.inputs["input_ids"]
    special = torch.tensor(sorted(tokenizer.all_special_ids), device=ids.device)
    return batch.inputs["attention_mask"].bool() & ~torch.isin(ids, special)


def _halves(batch: Batch, tokenizer: Any) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Each text's ordinary tokens, cut in the middle."""
    found = []
    for ids, real in zip(batch.inputs["input_ids"].cpu(), _ordinary(batch, tokenizer).cpu(), strict=True):
        tokens = ids[real].tolist()
        found.append((tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]))
    return found


def _near(count: int, of: int, share: float) -> bool:
    """Whether `count` of so many is `share` within five standard deviations."""
    return of > 0 and abs(count - share * of) <= 5 * math.sqrt(share * (1 - share) * of) + 1
