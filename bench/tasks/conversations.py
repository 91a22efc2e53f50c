"""Conversations as token ids by a tokenizer's chat template, and which of the tokens are answers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.tasks.base import IGNORED, Batch, TaskError
from bench.tasks.tokens import PART, Part, Tokens, fills, name_in_cache, padded, real

if TYPE_CHECKING:
    Numbers = np.ndarray[Any, np.dtype[np.int32]]

Messages = Sequence[Mapping[str, str]]
"""``{"role": "system" | "user" | "assistant", "content": ...}`` each."""

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "### Assistant:\n{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{{ '\\n\\n' }}"
    "{% else %}### {{ message.role | capitalize }}:\n{{ message.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""The template of conversations where a tokenizer has none of its own. (A line break right after a block is not rendered.)"""

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def rendered(tokenizer: Any, messages: Messages, *, answer_next: bool = False) -> list[int]:
    """The token ids of a conversation; with `answer_next` they go on to where an answer would begin."""
    found: list[int] = _apply(tokenizer, messages, add_generation_prompt=answer_next)["input_ids"]
    return found


def with_answers(tokenizer: Any, messages: Messages) -> tuple[list[int], list[int]]:
    """The token ids of a conversation up to its last answer's end, and 1 for each that is an answer's, else 0.

    An answer ends with the token that ends it, where the template has one. A template that marks answers with
    ``{% generation %}`` says which they are. With another, an answer is what the conversation has beyond the part up to
    the answer, and not beyond the part up to its end.
    """
    if _marks(tokenizer):
        found = _apply(tokenizer, messages, return_assistant_tokens_mask=True)
        ids, mask = list(found["input_ids"]), list(found["assistant_masks"])
    else:
        ids, end = rendered(tokenizer, messages), tokenizer.eos_token_id
        mask = [0] * len(ids)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                start = _common(ids, rendered(tokenizer, messages[:place], answer_next=True))
                stop = _common(ids, rendered(tokenizer, messages[: place + 1]))
                if (
                    stop <= start and end in ids[start:]
                ):  # it says the last answer in another way, as Qwen3's with its thoughts
                    stop = ids.index(end, start) + 1
                mask[start:stop] = [1] * (stop - start)
    mask = _ended(ids, mask, tokenizer.eos_token_id)
    length = len(mask) - mask[::-1].index(1) if 1 in mask else 0
    return ids[:length], mask[:length]


def _apply(tokenizer: Any, messages: Messages, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=_template(tokenizer), tokenize=True, return_dict=True, **options
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise TaskError(f"the tokenizer's chat template refuses a conversation of {roles}: {error}") from None


def _template(tokenizer: Any) -> str:
    return tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN


def _marks(tokenizer: Any) -> bool:
    return bool(tokenizer.is_fast and _MARKED.search(_template(tokenizer)))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))


def _ended(ids: Sequence[int], mask: Sequence[int], end: int | None) -> list[int]:
    """`mask` without what follows the last `end` of each answer that has one, such as a line break."""
    kept, stop = list(mask), 0
    for answer, run in itertools.groupby(mask):
        start, stop = stop, stop + len(list(run))
        part = list(ids[start:stop])
        if answer and end in part:
            last = stop - part[::-1].index(end)
            kept[last:stop] = [0] * (stop - last)
    return kept


class Conversations:
    """Conversations as token ids, of which the answers' tokens are predicted.

    A longer one than `max_length` loses its beginning. ``lengths`` counts the tokens of each, ``bytes`` the UTF-8 bytes of
    its answers; where part of them is lost, as large a part of the bytes. ``cut`` counts those that lose a part.
    """

    def __init__(
        self, tokenizer: Any, conversations: Sequence[Messages], max_length: int, fingerprint: str | None = None
    ) -> None:
        self._fill = fills(tokenizer)["input_ids"]

        def make() -> Iterator[Part]:
            for start in range(0, len(conversations), PART):
                part = [_item(tokenizer, each, max_length) for each in conversations[start : start + PART]]
                yield {name: [item[name] for item in part] for name in part[0]}

        name = name_in_cache(tokenizer, "conversations", fingerprint, max_length) if fingerprint is not None else None
        self.tokens = Tokens(make, name)
        self.lengths: Sequence[int] = self.tokens.lengths("input_ids")  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.lengths)

    def facts(self, item: int) -> tuple[int, int, bool]:
        """The tokens of an item that are predicted, the bytes that they stand for, and whether some were lost."""
        predicted, size, cut = self.tokens.row("facts", item).tolist()
        return predicted, size, bool(cut)

    def batch(self, items: Sequence[int]) -> Batch:
        """These items, in this order."""
        return self._batch([[item] for item in items], tuple(items))

    def _batch(self, packs: Sequence[Sequence[int]], items: tuple[int, ...]) -> Batch:
        """Rows of the items in each of `packs`, one after the other."""
        ids = [self._joined("input_ids", pack) for pack in packs]
        answers = padded([self._joined("answers", pack) for pack in packs], 0).bool()
        lengths = tuple(map(len, ids))
        found = padded(ids, self._fill)
        return Batch(
            {"input_ids": found, "attention_mask": real(lengths)},
            found.masked_fill(~answers, IGNORED),
            lengths,
            terms=tuple(answers.sum(1).tolist()),
            items=items,
        )

    def _joined(self, name: str, pack: Sequence[int]) -> Numbers:
        return np.concatenate([self.tokens.row(name, item) for item in pack])


class Packed(Conversations):
    """Conversations in rows of at most `max_length` tokens, whose items see nothing of each other: an item is a row.

    There is no attention mask: transformers tells the items of a row apart by ``position_ids``, which begin again with
    each. Padding is one more item. ``packs`` says which conversations are in each row.
    """

    def __init__(
        self, tokenizer: Any, conversations: Sequence[Messages], max_length: int, fingerprint: str | None = None
    ) -> None:
        super().__init__(tokenizer, conversations, max_length, fingerprint)
        self._each = self.lengths
        self.packs = packs(self._each, max_length)
        self.lengths = [sum(int(self._each[item]) for item in pack) for pack in self.packs]

    def batch(self, items: Sequence[int]) -> Batch:
        """These rows, in this order."""
        chosen = [self.packs[item] for item in items]
        found = self._batch(chosen, tuple(items))
        width = found.labels.shape[1]
        rows = []
        for pack, length in zip(chosen, found.lengths, strict=True):
            parts = [int(self._each[item]) for item in pack] + [width - length]
            rows.append(np.concatenate([np.arange(part, dtype=np.int32) for part in parts]))
        inputs = {"input_ids": found.inputs["input_ids"], "position_ids": padded(rows, 0)}
        return Batch(inputs, found.labels, found.lengths, found.terms, found.items)


def packs(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Items of these `lengths` in rows of `room`, each where it fits best, the longest first."""
    by_room: list[list[list[int]]] = [[] for _ in range(room + 1)]
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = int(lengths[item])
        left = next((left for left in range(length, room + 1) if by_room[left]), None)
        pack = [] if left is None else by_room[left].pop()
        pack.append(item)
        by_room[(room if left is None else left) - length].append(pack)
    return sorted(pack for rows in by_room for pack in rows)


def _item(tokenizer: Any, messages: Messages, max_length: int) -> dict[str, list[int]]:
    ids, answers = with_answers(tokenizer, messages)
    whole = sum(answers)
    ids, answers = ids[-max_length:], answers[-max_length:]
    if not any(answers[1:]):
        raise TaskError(
            f"a conversation has no token of an answer after the chat template, as {str(messages[-1]['content'])!r:.60}; "
            "take it out, or raise budget.max_length"
        )
    answers[0] = 0  # nothing stands before it
    size = sum(len(message["content"].encode("utf-8")) for message in messages if message["role"] == "assistant")
    kept = sum(answers)
    facts = [kept, max(1, round(size * kept / whole)), int(kept < whole)]
    return {"input_ids": ids, "answers": answers, "facts": facts}
