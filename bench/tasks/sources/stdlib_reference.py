"""The prose of Python's language reference, as language modelling data.

CPython ships it for ``help()``, so that it is on every machine already, and ``stdlib-code`` leaves it out: a model that
was trained there, as tiny-llama was, has something new to learn and something old to forget.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from bench.tasks.alike import comparable
from bench.tasks.base import TaskError
from bench.tasks.kinds.language_modelling import LanguageModelling
from bench.tasks.passages import passages


class StdlibReference(LanguageModelling):
    """Some 370 kB of English on Python: the topics of ``pydoc_data``, which are sections of the language reference.

    A topic may hold others as its parts ("compound" has "if" and "for"), so each paragraph counts once: no test
    paragraph was trained on. Topics differ too much in length to be divided whole; passages of some 2,000 characters
    are, and neighbours may fall into different splits. The text differs between Python versions, and results do not
    compare across those; the fingerprint says so.
    """

    name = "stdlib-reference"
    summary: ClassVar[str] = "prose of Python's language reference; predict each token from those before it"

    def read(self) -> Iterator[str]:
        """Every passage.

        Raises:
            TaskError: this Python comes without the topics of its help.
        """
        try:
            topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
        except ImportError as error:
            raise TaskError(
                f"{self.name}: there are no help topics ({error}); use a Python with its whole standard library"
            ) from None
        seen: set[str] = set()
        # The longest first, so that paragraphs stay together in the topic that holds the others.
        for topic in sorted(topics.values(), key=lambda text: (-len(text), text)):
            new = [paragraph for paragraph in topic.split("\n\n") if comparable(paragraph) not in seen]
            seen.update(map(comparable, new))
            yield from passages("\n\n".join(new))
