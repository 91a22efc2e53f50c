"""The message catalogues of Django (BSD): its English messages, which people translated to German."""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from typing import ClassVar

from bench.tasks.base import TaskError
from bench.tasks.items import Item
from bench.tasks.kinds.seq2seq import SequenceToSequence
from bench.tasks.sources.packages import kept_as, needed, place

_FORMAT = 1  # of the kept items; raised when other items are made of the same package
_PACKAGE = "django"


class DjangoTranslation(SequenceToSequence):
    """A smoke test of translation: messages of one program, short and alike, with its placeholders in them."""

    name = "django-translation"
    summary: ClassVar[str] = (
        "a smoke test: messages of the package Django, from English to German (extra [translation])"
    )
    template = "translate English to German: {text}"
    max_target_length = 64

    def problems(self) -> list[str]:
        """Say which package is missing."""
        return needed(self.name, _PACKAGE, "translation") or super().problems()

    def read(self) -> Iterator[Item]:
        """Every message that has one form and needs no context.

        Raises:
            TaskError: the package is missing.
        """
        for problem in needed(self.name, _PACKAGE, "translation"):
            raise TaskError(problem)
        for file in sorted(place(_PACKAGE).glob("**/locale/de/LC_MESSAGES/django.mo")):
            with file.open("rb") as stream:
                catalogue: dict[object, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
            for message, translation in catalogue.items():
                # Plural forms are pairs, and a context stands before an end-of-transmission sign.
                if isinstance(message, str) and message.strip() and translation.strip() and "\x04" not in message:
                    yield Item((message.strip(),), translation.strip())

    def kept_as(self) -> str:
        """A file by the package's version."""
        return kept_as(self.name, _PACKAGE, _FORMAT)
