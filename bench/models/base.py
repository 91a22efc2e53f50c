"""What a model is: where its weights come from, a fingerprint of them, and how to load it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models.structure import Structure
from bench.recipe.declarations import Fact

if TYPE_CHECKING:
    import torch


class Model(abc.ABC):
    """A model. Registered subclasses have a ``name``; a local transformers directory is one without registering."""

    name: str
    kind: ClassVar[str] = "pretrained"
    summary: ClassVar[str] = ""
    pretrained: ClassVar[bool] = True
    """Whether its weights have learned anything. Quality is not measured where they have not."""
    caveat: ClassVar[str] = ""
    """What to know of its weights before figures of it are believed, as a sentence that goes on after the name."""
    allow_remote_code: bool = False
    """Whether code that comes with its files may run."""

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

    def needs(self) -> tuple[str, ...]:
        """Packages that loading it imports, beside torch and transformers."""
        return ()

    def facts(self) -> frozenset[Fact]:
        """What is true of it before any stage, such as that its weights are quantized."""
        return frozenset()

    def notes(self) -> list[str]:
        """What each report tells of it, in sentences that go on after its name and a colon."""
        return [self.caveat] if self.caveat else []

    def pinned(self, spec: str) -> str:
        """What calls this very model, where `spec` may call another one later."""
        return spec

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
