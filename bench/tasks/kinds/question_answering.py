"""Extractive question answering: which part of a text answers a question about it, if any?"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from bench.tasks.base import Answers, Batch, Chance, Quality, Retention, Split, TaskError
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.overlap import normalized
from bench.tasks.rows import Row
from bench.tasks.scores import Score, mean, quality
from bench.tasks.table import DataTable, Name

if TYPE_CHECKING:
    import torch


class QuestionTable(DataTable):
    """One's own questions about texts."""

    question: Name = Field("question", description="the column that holds the question")
    context: Name = Field("context", description="the column that holds the text that answers it")
    answers: Name = Field(
        "answers",
        description='the column that holds the right answers, as {"text": [...], "answer_start": [...]}, as a list of texts or '
        "as one text; empty where the context has none",
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="tokens that two windows on a long context have in common; a third of max_length otherwise",
    )
    answer_tokens: int = Field(30, ge=1, description="tokens that an answer has at most")


class QuestionAnswering(ItemTask["Windows"]):
    """The part of a text that answers a question, as in SQuAD 1.1 and 2.0.

    A context that does not fit into ``max_length`` is read in windows that overlap, each with the question. In training, a
    window that does not hold the whole first answer has none, which is its first token. Of a question's windows, the span
    counts whose logits of start and end have the highest sum. Where the data has questions without answer, there is none if no
    span has a higher sum than the first token of every window.
    """

    kind = "question_answering"
    metrics = ("answer_f1", "exact_match")
    primary = "answer_f1"
    learns = "from questions about texts, and where the answer stands"
    table = QuestionTable
    auto_class = "AutoModelForQuestionAnswering"
    # Not "QUESTION_ANS": of PEFT 0.21.2, that model does not pass `token_type_ids` on, which tell question from context.
    logit_names = ("start_logits", "end_logits")
    predicts_classes = True
    stride: int | None = None
    answer_tokens = 30

    def __init__(self, table: DataTable | None = None, suite_folder: Path = Path()) -> None:
        super().__init__(table, suite_folder)
        if isinstance(table, QuestionTable):
            self.stride, self.answer_tokens = table.stride, table.answer_tokens

    # -- planning, without torch -----------------------------------------------------------------------------

    @classmethod
    def columns(cls, table: QuestionTable) -> tuple[str, ...]:
        """The question, the context and the answers."""
        return table.question, table.context, table.answers

    def item(self, row: Row) -> Item:
        """The question and the context of a row, and its answers with the places where they begin."""
        question, context, column = row.rows.columns
        text = row.text(context)
        return Item((row.text(question).strip(), text), [list(each) for each in _answers(row, column, context, text)])

    def fingerprint(self) -> str:
        """That of the items, and of how they are read and scored where a table says it.

        Raises:
            TaskError: the data cannot be used.
        """
        found = super().fingerprint()
        if (self.stride, self.answer_tokens) == (None, type(self).answer_tokens):
            return found
        return hashlib.sha256(f"{found} {self.stride} {self.answer_tokens}".encode()).hexdigest()

    def training_items(self) -> int | None:
        """How many windows there are depends on the tokenizer."""
        return None

    @functools.cached_property
    def always(self) -> bool:
        """Whether every question has an answer."""
        return all("[]" not in self.data.distinct(split) for split in get_args(Split))

    # -- in a stage's own process ----------------------------------------------------------------------------

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> Windows:
        """Windows on the contexts."""
        questions, contexts = self.data.columns(split)
        answers = self.data.answers(split)
        return Windows(tokenizer, questions, contexts, answers, self.stride, max_length, self.made_of(split))

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The mean of the cross entropies of start and end over all places of a window, in float32 and nats, over windows."""
        import torch

        return torch.nn.functional.cross_entropy(self.logits(outputs, batch).float(), batch.labels.flatten())

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Of start and end in turn, ``[2 × windows, places]``."""
        import torch

        width = batch.inputs["attention_mask"].shape[1]
        # The virtual tokens of a prompt stand before those of the window.
        return torch.stack([outputs.start_logits, outputs.end_logits], 1)[..., -width:].flatten(0, 1)

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
        """What :func:`scores` gives. Where logits are not numbers, a question's answer is wrong.

        Raises:
            TaskError: the split has no texts.
        """
        from bench.tasks.answered import answered

        windows = self.encoded(split, tokenizer, max_length)
        contexts, truth = self.data.column(split, 1), list(self.data.answers(split))
        best: list[tuple[float, int, int]] = [(float("-inf"), 0, 0)] * len(truth)
        nothing = [float("inf")] * len(truth)
        unknown: set[int] = set()
        retention = Retention()
        for batch, logits, other in answered(self.logits, windows, model, batch_size, uncompressed, answers):
            if other is not None:
                retention.add(logits, other, batch.labels.flatten())
            for window, found, empty in zip(batch.items, *self._spans(logits, windows, batch.items), strict=True):
                question = windows.question(window)
                if math.isnan(found[0] + empty):
                    unknown.add(question)
                # Of equal ones the first in the text, whatever the order of windows.
                best[question] = max(best[question], found, key=lambda each: (each[0], -each[1], -each[2]))
                nothing[question] = min(nothing[question], empty)
        predicted = [
            "" if empty > score and not self.always else context[start:end]
            for (score, start, end), empty, context in zip(best, nothing, contexts, strict=True)
        ]
        wrong = [None if question in unknown else text for question, text in enumerate(predicted)]
        scored = quality(scores([[text for text, _ in each] for each in truth], wrong), self.primary)
        return Quality(
            {**scored.metrics, **(retention.metrics() if uncompressed is not None else {})}, (), scored.correct
        )

    def _spans(
        self, logits: torch.Tensor, windows: Windows, items: Sequence[int]
    ) -> tuple[list[tuple[float, int, int]], list[float]]:
        """Of each window: its best span's score, and where it begins and ends in the context; and the score of no answer."""
        import torch

        starts, ends = logits.float().unflatten(0, (-1, 2)).unbind(1)
        width = starts.shape[1]
        places = torch.arange(width, device=logits.device)
        apart = places[None, :] - places[:, None]
        near = (apart >= 0) & (apart < self.answer_tokens)
        inside = torch.stack([windows.inside(item, width) for item in items]).to(logits.device)
        sums = starts[:, :, None] + ends[:, None, :]
        sums = sums.masked_fill(~(near & inside[:, :, None] & inside[:, None, :]), float("-inf"))
        scores, where = sums.flatten(1).max(1)
        empty = starts[:, 0] + ends[:, 0]
        found = []
        for item, score, place in zip(items, scores.tolist(), where.tolist(), strict=True):
            found.append((score, windows.begins(item, place // width), windows.ends(item, place % width)))
        return found, empty.tolist()

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """No answer, where most training questions have none; else the whole context, which holds the answer."""
        training, truth = list(self.data.answers("train")), list(self.data.answers("test"))
        none = 2 * sum(not each for each in training) > len(training)
        guesses = [""] * len(truth) if none else list(self.data.column("test", 1))
        found = scores([[text for text, _ in each] for each in truth], guesses)
        return Chance(
            "no answer, guessed for each question" if none else "the whole context, given as each answer",
            {name: score.value for name, score in found.items()},
        )


def _answers(row: Row, column: str, context: str, text: str) -> Iterator[tuple[str, int]]:
    """Each right answer with its place in `text`."""
    value = row.values[column]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise row.error(
                f'`{column}` is {{"text": [...], "answer_start": [...]}} with a start for each text, found {value!r:.60}'
            )
        given: list[tuple[Any, Any]] = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        given = [
            (each.get("text"), each.get("answer_start", each.get("start")))
            if isinstance(each, Mapping)
            else (each, None)
            for each in value
        ]
    else:
        given = [] if value is None or value == "" else [(value, None)]
    for answer, start in given:
        if not isinstance(answer, str) or not answer.strip() or not (start is None or type(start) is int):
            raise row.error(
                f"`{column}` has a text and the number of its first character for each answer, found {(answer, start)!r:.60}"
            )
        if start is None:
            if text.count(answer) != 1:
                raise row.error(
                    f"`{column}` is `{answer:.60}`, which is {text.count(answer) or 'not'}{' times' if answer in text else ''} in "
                    f"`{context}`; give the number of its first character in `answer_start`"
                )
            start = text.index(answer)
        if text[start : start + len(answer)] != answer:
            raise row.error(
                f"`{column}`: `{answer:.60}` does not stand at character {start} of `{context}`, where "
                f"`{text[max(0, start) : start + len(answer)]:.60}` is; count characters from 0"
            )
        yield answer, start


class Windows:
    """Questions with windows on their contexts as token ids; an item is a window, and labels are ``[windows, 2]``.

    A label is the place of the first and of the last token of the first answer, or 0 twice where a window does not hold it.
    A question takes half of ``max_length`` at most; of a longer one the beginning is read.
    """

    def __init__(
        self,
        tokenizer: Any,
        questions: Sequence[str],
        contexts: Sequence[str],
        answers: Sequence[Sequence[tuple[str, int]]],
        stride: int | None,
        max_length: int,
        fingerprint: str | None = None,
    ) -> None:
        from bench.tasks.tokens import Part, Tokens, fills, in_parts, name_in_cache, with_places

        with_places(tokenizer)
        self._fill = fills(tokenizer)
        room = max_length - max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 2:
            raise TaskError(
                f"budget.max_length: {max_length} tokens leave no room for a question and a context; give more"
            )
        overlap = min(stride or max_length // 3, room - 1)

        def rows() -> Iterator[Mapping[str, Sequence[int]]]:
            for number, (question, context, given) in enumerate(zip(questions, contexts, answers, strict=True)):
                short = tokenizer(
                    question,
                    add_special_tokens=False,
                    truncation=True,
                    max_length=max_length // 2,
                    return_offsets_mapping=True,
                )["offset_mapping"]
                found = tokenizer(
                    question[: short[-1][1]] if short else "",
                    context,
                    truncation="only_second",
                    max_length=max_length,
                    stride=overlap,
                    return_overflowing_tokens=True,
                    return_offsets_mapping=True,
                    return_attention_mask=False,
                )
                for window, places in enumerate(found["offset_mapping"]):
                    own = [
                        part == 1 and start < end
                        for part, (start, end) in zip(found.sequence_ids(window), places, strict=True)
                    ]
                    begins = [start if mine else -1 for mine, (start, _) in zip(own, places, strict=True)]
                    ends = [end if mine else -1 for mine, (_, end) in zip(own, places, strict=True)]
                    ids = {name: found[name][window] for name in self._fill.keys() & found.keys()}
                    labels = _label(begins, ends, given[0] if given else None)
                    yield {**ids, "begins": begins, "ends": ends, "labels": labels, "question": [number]}

        def make() -> Iterator[Part]:
            return in_parts(rows())

        made_of = (fingerprint, max_length, overlap)
        self._tokens = Tokens(make, name_in_cache(tokenizer, *made_of) if fingerprint is not None else None)
        self.lengths: Sequence[int] = self._tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def question(self, window: int) -> int:
        """Which question a window is of."""
        return int(self._tokens.row("question", window)[0])

    def begins(self, window: int, token: int) -> int:
        """At which character of the context a token begins."""
        return int(self._tokens.row("begins", window)[token])

    def ends(self, window: int, token: int) -> int:
        """Before which character of the context a token ends."""
        return int(self._tokens.row("ends", window)[token])

    def inside(self, window: int, width: int) -> torch.Tensor:
        """Which of `width` places hold tokens of the context."""
        import torch

        found = torch.zeros(width, dtype=torch.bool)
        row = torch.from_numpy(self._tokens.row("begins", window).copy())
        found[: len(row)] = row >= 0
        return found

    def batch(self, items: Sequence[int]) -> Batch:
        """These windows, in this order."""
        from bench.tasks.tokens import padded, real

        lengths = tuple(int(self.lengths[item]) for item in items)
        inputs = {
            name: padded([self._tokens.row(name, item) for item in items], fill)
            for name, fill in self._fill.items()
            if name in self._tokens.names
        }
        inputs["attention_mask"] = real(lengths)
        labels = padded([self._tokens.row("labels", item) for item in items], 0)
        return Batch(inputs, labels, lengths, terms=(1,) * len(items), items=tuple(items))


def _label(begins: Sequence[int], ends: Sequence[int], answer: tuple[str, int] | None) -> list[int]:
    """The places of an answer's first and last token among tokens that begin and end at these characters; 0 twice if it is not there."""
    if answer is None:
        return [0, 0]
    text, start = answer
    stop = start + len(text)
    inside = [
        place for place, (begin, end) in enumerate(zip(begins, ends, strict=True)) if 0 <= begin < stop and end > start
    ]
    if not inside or begins[inside[0]] > start or ends[inside[-1]] < stop:
        return [0, 0]
    return [inside[0], inside[-1]]


def scores(truth: Sequence[Sequence[str]], predicted: Sequence[str | None]) -> dict[str, Score]:
    """SQuAD's F1 and exact match, each the mean over questions of the best of the right answers; none is one where there are none.

    A prediction of None is wrong. Source: Rajpurkar et al., "Know What You Don't Know" (2018), and the evaluation script of
    SQuAD 2.0, https://rajpurkar.github.io/SQuAD-explorer/.
    """
    f1, exact = [], []
    for texts, guess in zip(truth, predicted, strict=True):
        right = [text for text in texts if normalized(text)] or [""]
        f1.append(0.0 if guess is None else max(_f1(text, guess) for text in right))
        exact.append(0 if guess is None else max(int(normalized(text) == normalized(guess)) for text in right))
    return {"answer_f1": mean(f1), "exact_match": mean(exact)}


def _f1(text: str, guess: str) -> float:
    true, found = normalized(text).split(), normalized(guess).split()
    if not true or not found:
        return float(true == found)
    shared = sum((Counter(true) & Counter(found)).values())
    return 2 * shared / (len(true) + len(found))
