"""What a model is: where its weights come from, a fingerprint of them, and how to load it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.structure import Structure

if TYPE_CHECKING:
    import torch


class Model(abc.ABC):
    """A model. Registered subclasses have a ``name``; a local transformers directory is one without registering."""

    name: str
    kind: ClassVar[str] = "pretrained"
    summary: ClassVar[str] = ""
    pretrained: ClassVar[bool] = True
    """Whether its weights have learned anything. Quality is not measured where they have not."""

    # -- planning, without torch ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def problems(self) -> list[str]:
        """Say why the model cannot be used, in a sentence each: directory, file and mend."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of configuration, tokenizer and weights."""

    @abc.abstractmethod
    def model_type(self) -> str:
        """transformers' ``model_type``: "bert", "llama", ..."""

    def config(self) -> Mapping[str, Any]:
        """What is in ``config.json``, where there is one: what planning knows of the model's shape."""
        return {}

    def vocabulary(self) -> Mapping[str, int]:
        """Its tokenizer's tokens and their numbers; empty where planning cannot tell."""
        return {}

    def to_make(self) -> str:
        """Say that :meth:`make` has something to do, and about how long it takes; empty where all is there."""
        return ""

    # -- in a process that may import torch ----------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What the model's code and the names of its weights show, loaded as a task loads it; no weight is read."""
        return Structure(config=self.config())

    def make(self, progress: Callable[[str, int, int], None]) -> None:
        """Make what is not there yet, before any stage needs it. Two processes do not make it twice."""

    @abc.abstractmethod
    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model and its tokenizer.

        Raises:
            ModelError: a file is missing or its hash is wrong.
        """


class ModelError(Exception):
    """The model cannot be loaded. The message names the directory, the file and the mend."""
