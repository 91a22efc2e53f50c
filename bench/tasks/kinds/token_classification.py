"""Token classification: a tag for each token of a text, as in named entity recognition."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from bench.tasks.base import IGNORED, Answers, Batch, Chance, Quality, Retention, Split
from bench.tasks.item_task import ItemTask
from bench.tasks.items import DividedItems, Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, jackknifed, quality
from bench.tasks.table import DataTable, Name

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[np.float64]]

OUTSIDE = "O"
"""The tag of a token that is in no entity."""

_IOB = re.compile(r"[BIESLU]-.+")
_FIRST, _LATER = "BSU", "IEL"  # of IOB2, IOBES and BILOU
_ENTITIES = ("entity_f1", "entity_precision", "entity_recall")


class TokenTable(DataTable):
    """One's own texts as lists of tokens, with a tag for each."""

    tokens: Name = Field(
        "tokens", description="the column that holds the list of tokens; in a .csv, with white space between"
    )
    tags: Name = Field("tags", description="the column that holds the list of tags, one for each token")


class TokenClassification(ItemTask["TaggedTexts"]):
    """A tag for each token of a text.

    A model says a token's tag at the first piece that its tokenizer makes of the token; no other piece is in the loss.
    A token that is beyond ``max_length``, or that the tokenizer makes nothing of, has no such piece: it counts as predicted
    :data:`OUTSIDE`, so that a model that reads less does not score higher.

    Tags with ``B-`` and ``I-`` (or those of IOBES and BILOU) say where entities begin. Of other tags, a run of tokens with one
    tag that is not :data:`OUTSIDE` is an entity, and macro F1 over tags ranks recipes.
    """

    kind = "token_classification"
    metrics = (*_ENTITIES, "token_accuracy", "macro_f1")
    primary = "entity_f1"
    learns = "from texts with a tag for each token"
    table = TokenTable
    auto_class = "AutoModelForTokenClassification"
    peft_task_type = "TOKEN_CLS"
    predicts_classes = True

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: TokenTable) -> tuple[str, ...]:
        """The tokens and the tags."""
        return table.tokens, table.tags

    def item(self, row: Row) -> Item:
        """The tokens of a row as lines of one text, and its tags."""
        tokens, tags = (row.list_in(column) for column in row.rows.columns)
        for column, each in zip(row.rows.columns, (tokens, tags), strict=True):
            for value in each:
                if not isinstance(value, str | int) or isinstance(value, bool):
                    raise row.error(f"`{column}` is a list of texts, found {value!r:.60} in it")
        if not tokens:
            raise row.error(f"`{row.rows.columns[0]}` has no tokens; fill it in or take the row out")
        if len(tokens) != len(tags):
            raise row.error(f"{len(tokens)} tokens have {len(tags)} tags; give each token one")
        return tagged(map(str, tokens), map(str, tags))

    def divided(self) -> DividedItems:
        """Every item in its split; and the metric that ranks recipes, which depends on the tags."""
        data = super().divided()
        self.data = data  # the tags are of it
        if self.given is not None and self.given.metric is None and not self.has_entities:
            self.primary = "macro_f1"
        return data

    def problems(self) -> list[str]:
        """Say why the data cannot be used; also where there is one tag alone."""
        if found := super().problems():
            return found
        if len(self.tags) == 1:
            return [f"{self.name}: all tokens have one tag, `{self.tags[0]}`; two are needed"]
        return []

    @functools.cached_property
    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; a target is a position in them."""
        return tuple(sorted({tag for split in get_args(Split) for tags in self.data.answers(split) for tag in tags}))

    @property
    def has_entities(self) -> bool:
        """Whether the tags say where entities begin."""
        return all(tag == OUTSIDE or _IOB.fullmatch(tag) for tag in self.tags) and self.tags != (OUTSIDE,)

    # -- in a stage's own process ----------------------------------------------------------------------------

    def head_options(self) -> dict[str, Any]:
        """A logit for each tag."""
        return {
            "num_labels": len(self.tags),
            "id2label": dict(enumerate(self.tags)),
            "label2id": {tag: target for target, tag in enumerate(self.tags)},
        }

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> TaggedTexts:
        """Texts with a label for the first piece of each token."""
        return TaggedTexts(
            tokenizer, self.texts(split), self.data.answers(split), self.tags, max_length, self.made_of(split)
        )

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross entropy in float32, in nats, the mean over tokens of the data."""
        import torch

        logits = _of_texts(outputs, batch).flatten(0, 1).float()
        total = torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / max(
            1, batch.weight
        )  # of a micro-batch, all tokens may be ones that the tokenizer makes nothing of

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[tokens of the data, tags]``."""
        return _of_texts(outputs, batch)[batch.labels != IGNORED]

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
        """What :func:`scores` gives. A token whose logits are not numbers is predicted :data:`OUTSIDE`.

        Raises:
            TaskError: the split has no texts.
        """
        import torch

        from bench.tasks.answered import answered

        encoded = self.encoded(split, tokenizer, max_length)
        truth = list(self.data.answers(split))
        predicted = [[OUTSIDE] * len(tags) for tags in truth]
        retention = Retention()
        for batch, logits, other in answered(self.logits, encoded, model, batch_size, uncompressed, answers):
            if other is not None:
                retention.add(logits, other, batch.labels[batch.labels != IGNORED])
            chosen = iter(torch.where(logits.isnan().any(-1), -1, logits.argmax(-1)).tolist())
            for item in batch.items:
                for place in encoded.places(item):
                    if (target := next(chosen)) >= 0:
                        predicted[item][place] = self.tags[target]
        found = quality(scores(truth, predicted, self.primary), self.primary)
        return Quality(
            {**found.metrics, **(retention.metrics() if uncompressed is not None else {})}, (), found.correct
        )

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """The tag that most training tokens have; of several, the first by name."""
        counts = Counter(tag for tags in self.data.answers("train") for tag in tags)
        guess = max(sorted(counts), key=counts.__getitem__)
        truth = list(self.data.answers("test"))
        found = scores(truth, [[guess] * len(tags) for tags in truth], self.primary)
        return Chance(
            f"the most frequent tag of the training tokens, `{guess}`, guessed for each test token",
            {name: score.value for name, score in found.items()},
        )


def tagged(tokens: Iterable[str], tags: Iterable[str]) -> Item:
    """An item: the tokens are the lines of its text, white space in a token being one space."""
    return Item(("\n".join(" ".join(token.split()) for token in tokens),), list(tags))


class TaggedTexts:
    """Texts as token ids, and for each piece the position of its tag among `tags`, or :data:`IGNORED`.

    The tokens of a text are its lines; the model reads them with a space between.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        tags: Sequence[Sequence[str]],
        known: Sequence[str],
        max_length: int,
        fingerprint: str | None = None,
    ) -> None:
        from bench.tasks.tokens import PART, Part, Tokens, fills, name_in_cache, with_places

        with_places(tokenizer)
        self._fill = fills(tokenizer)
        target = {tag: position for position, tag in enumerate(known)}

        def make() -> Iterator[Part]:
            for start in range(0, len(texts), PART):
                lines = [text.split("\n") for text in texts[start : start + PART]]
                found = tokenizer(
                    [" ".join(each) for each in lines],
                    truncation=True,
                    max_length=max_length,
                    return_attention_mask=False,
                    return_offsets_mapping=True,
                )
                firsts = [_firsts(*each) for each in zip(lines, found["offset_mapping"], strict=True)]
                labels = [[IGNORED] * max(1, len(ids)) for ids in found["input_ids"]]
                for row, first, own in zip(labels, firsts, tags[start : start + PART], strict=True):
                    for place, piece in first:
                        row[piece] = target[own[place]]
                ids = {
                    name: [row or [self._fill[name]] for row in found[name]]
                    for name in self._fill.keys() & found.keys()
                }
                yield {**ids, "labels": labels, "places": [[place for place, _ in first] for first in firsts]}

        made_of = (fingerprint, max_length, len(texts), known)
        self._tokens = Tokens(make, name_in_cache(tokenizer, *made_of) if fingerprint is not None else None)
        self.lengths: Sequence[int] = self._tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def places(self, item: int) -> list[int]:
        """Which tokens of the data have a label, in order."""
        return list(map(int, self._tokens.row("places", item)))

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order; labels are ``[items, pieces]``."""
        from bench.tasks.tokens import padded, real

        lengths = tuple(int(self.lengths[item]) for item in items)
        rows = {name: [self._tokens.row(name, item) for item in items] for name in self._tokens.names}
        inputs = {name: padded(rows[name], fill) for name, fill in self._fill.items() if name in rows}
        inputs["attention_mask"] = real(lengths)
        terms = tuple(map(len, rows["places"]))
        return Batch(inputs, padded(rows["labels"], IGNORED), lengths, terms, tuple(items))


def _firsts(lines: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each of `lines`, joined by spaces, its place and the first piece that is of it; a piece is of one line alone."""
    found, piece, begin = [], 0, 0
    for place, line in enumerate(lines):
        end = begin + len(line)
        # Special tokens are of no character.
        while piece < len(offsets) and (offsets[piece][0] == offsets[piece][1] or offsets[piece][1] <= begin):
            piece += 1
        if piece < len(offsets) and offsets[piece][0] < end:
            found.append((place, piece))
            piece += 1
        begin = end + 1
    return found


def _of_texts(outputs: Any, batch: Batch) -> torch.Tensor:
    """``[items, pieces, tags]``. The virtual tokens of a prompt stand before those of the texts."""
    logits: torch.Tensor = outputs.logits[:, -batch.labels.shape[1] :]
    return logits


def scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], primary: str = "entity_f1"
) -> dict[str, Score]:
    """Scores of texts' tags: of entities as nervaluate's strict evaluation has them, and of tokens by scikit-learn.

    Of precision, recall and F1 that have nothing to count, the score is 0. Macro F1 is the mean over the tags that occur in
    truth or prediction. The `primary` one has parts of items, which are texts; token accuracy has none where it is not.
    """
    import numpy as np
    from sklearn import metrics

    counts = np.array([_entities(*each) for each in zip(truth, predicted, strict=True)], dtype=np.float64)
    found = {name: jackknifed(counts, statistic) for name, statistic in _STATISTICS.items()}
    true, guessed = ([tag for tags in of for tag in tags] for of in (truth, predicted))
    found["token_accuracy"] = Score(float(metrics.accuracy_score(true, guessed)))
    found["macro_f1"] = Score(float(metrics.f1_score(true, guessed, average="macro", zero_division=0)))
    if primary == "token_accuracy":
        hits = [(sum(map(str.__eq__, *each)), len(each[0])) for each in zip(truth, predicted, strict=True)]
        found[primary] = jackknifed(np.array(hits, dtype=np.float64), lambda sums: sums[:, 0] / sums[:, 1])
    if primary == "macro_f1":
        known = sorted({*true, *guessed})
        found[primary] = jackknifed(
            np.array([_tags(*each, known) for each in zip(truth, predicted, strict=True)]), _macro
        )
    return found


def _entities(truth: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """How many entities of a text are right, predicted, and true."""
    from nervaluate.loaders import ListLoader
    from nervaluate.strategies import StrictEvaluation

    true, guessed = ListLoader().load([list(map(_iob2, truth)), list(map(_iob2, predicted))])
    result, _ = StrictEvaluation().evaluate(true, guessed, [])
    return result.correct, len(guessed), len(true)


def _iob2(tag: str) -> str:
    """A tag of IOBES or BILOU as IOB2 has it; one that does not say where an entity begins goes on with the one before."""
    if tag == OUTSIDE:
        return tag
    if not _IOB.fullmatch(tag):
        return f"I-{tag}"
    return f"{'B' if tag[0] in _FIRST else 'I'}{tag[1:]}"


def _share(part: int, *wholes: int) -> Callable[[Array], Array]:
    """The mean of columns `wholes` that column `part` is of; 0 of nothing."""
    import numpy as np

    return lambda sums: sums[:, part] / np.maximum(sums[:, list(wholes)].mean(1), 0.5)


_STATISTICS: dict[str, Callable[[Array], Array]] = {
    "entity_f1": lambda sums: _share(0, 1, 2)(sums),
    "entity_precision": lambda sums: _share(0, 1)(sums),
    "entity_recall": lambda sums: _share(0, 2)(sums),
}


def _tags(truth: Sequence[str], predicted: Sequence[str], known: Sequence[str]) -> list[float]:
    """What a text adds to each tag: right tokens, and the mean of true and predicted ones."""
    true, guessed = Counter(truth), Counter(predicted)
    right = Counter(tag for tag, guess in zip(truth, predicted, strict=True) if tag == guess)
    return [*(right[tag] for tag in known), *((true[tag] + guessed[tag]) / 2 for tag in known)]


def _macro(sums: Array) -> Array:
    import numpy as np

    right, of = np.split(sums, 2, axis=-1)
    found: Array = (right / np.maximum(of, 0.5)).mean(-1)
    return found
