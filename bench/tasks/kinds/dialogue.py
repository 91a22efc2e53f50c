"""Dialogue: learn each reply of conversations from the turns before it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bench.tasks.items import Item
from bench.tasks.kinds.instruction_tuning import ConversationTable, InstructionTuning, conversation
from bench.tasks.rows import Row
from bench.tasks.table import Name


class DialogueTable(ConversationTable):
    """Conversations of two who take turns."""

    turns: Name = Field(
        "turns", description="the column that holds the list of what is said, in turns; the second replies"
    )


class Dialogue(InstructionTuning):
    """Conversations of two who take turns, as a list of texts or as messages. What the one who replies says is learned."""

    kind = "dialogue"
    learns = "from conversations of several turns, of which each reply is predicted from the turns before it"
    table = DialogueTable

    @classmethod
    def columns(cls, table: Any) -> tuple[str, ...]:
        """The messages, or the turns."""
        return (table.turns if table.messages is None else table.messages,)

    def item(self, row: Row) -> Item:
        """A conversation."""
        assert isinstance(self.given, DialogueTable)
        if self.given.messages is not None:
            return super().item(row)
        (column,) = row.rows.columns
        turns = row.values[column]
        if not isinstance(turns, list):
            raise row.error(
                f'`{column}` is a list of texts, as ["Hello.", "Good day!"], found {turns!r:.60}; use .jsonl or .parquet'
            )
        if len(turns) < 2:
            raise row.error(f"`{column}` has {len(turns)} turns, and a reply is the second at least; take the row out")
        for number, turn in enumerate(turns, 1):
            if not isinstance(turn, str) or not turn.strip():
                raise row.error(f"`{column}`, turn {number}: it is empty or no text; fill it in or take the row out")
        return taking_turns([turn.strip() for turn in turns])


def taking_turns(turns: list[str]) -> Item:
    """A conversation of two, in which the second replies. A last turn without a reply is left out."""
    roles = ("user", "assistant")
    return conversation([{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)])
