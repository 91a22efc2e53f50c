"""What a model is: where its weights come from, a fingerprint of them, and how to load it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


class Model(abc.ABC):
    """A model. Registered subclasses have a ``name``; a local transformers directory is one without registering."""

    name: str
    kind: ClassVar[str] = "pretrained"
    summary: ClassVar[str] = ""

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

    # -- in a stage's own process --------------------------------------------------------------------------------

    @abc.abstractmethod
    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model and its tokenizer.

        Raises:
            ModelError: a file is missing or its hash is wrong.
        """


class ModelError(Exception):
    """The model cannot be loaded. The message names the directory, the file and the mend."""
