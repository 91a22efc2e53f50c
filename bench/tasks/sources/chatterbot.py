"""The English conversations of the package chatterbot-corpus (BSD): made by hand, short, and with several answers to a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.tasks.base import TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.dialogue import Dialogue, taking_turns
from bench.tasks.kinds.instruction_tuning import InstructionTuning
from bench.tasks.sources.packages import kept_as, needed, place

_FORMAT = 1  # of the kept items; raised when other items are made of the same package
_PACKAGE = "chatterbot-corpus"


class ChatterbotDialogue(Dialogue):
    """Some 900 conversations; predict each reply. Most have two turns, and in some of the others a turn is one more answer to the first."""

    name = "chatterbot-dialogue"
    summary: ClassVar[str] = "conversations of the package chatterbot-corpus; predict each reply (extra [dialogue])"

    def problems(self) -> list[str]:
        """Say which package is missing."""
        return needed(self.name, _PACKAGE, "dialogue") or super().problems()

    def read(self) -> Iterator[Item]:
        """Every conversation.

        Raises:
            TaskError: the package is missing.
        """
        yield from (taking_turns(turns) for turns in _conversations(self.name))

    def kept_as(self) -> str:
        """A file by the package's version."""
        return kept_as(self.name, _PACKAGE, _FORMAT)


class ChatterbotInstructions(InstructionTuning):
    """The first two turns of each conversation: a prompt and its response."""

    name = "chatterbot-instructions"
    summary: ClassVar[str] = "prompts of the package chatterbot-corpus with their responses (extra [dialogue])"

    def problems(self) -> list[str]:
        """Say which package is missing."""
        return needed(self.name, _PACKAGE, "dialogue") or super().problems()

    def read(self) -> Iterator[Item]:
        """Every first prompt with its response.

        Raises:
            TaskError: the package is missing.
        """
        yield from (taking_turns(turns[:2]) for turns in _conversations(self.name))

    def kept_as(self) -> str:
        """A file by the package's version."""
        return kept_as(self.name, _PACKAGE, _FORMAT)


def _conversations(name: str) -> Iterator[list[str]]:
    """The turns of each conversation of at least two; those in which YAML reads a turn as a number or a truth value are left out."""
    for problem in needed(name, _PACKAGE, "dialogue"):
        raise TaskError(problem)
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(Path(place(_PACKAGE), "data", "english").glob("*.yml")):
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
        for turns in found["conversations"]:
            if len(turns) >= 2 and all(isinstance(turn, str) and turn.strip() for turn in turns):
                yield [turn.strip() for turn in turns]
