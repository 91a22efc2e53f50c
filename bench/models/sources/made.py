"""A model whose files are made on this machine once, and kept in the cache."""

from __future__ import annotations

import abc
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.machine import cache
from bench.models.base import ModelError
from bench.models.sources.directory import Directory
from bench.models.structure import Structure

if TYPE_CHECKING:
    import torch


class Made(Directory):
    """A subclass sets ``path`` in the cache, by all that the files are made of, and says its configuration beforehand."""

    minutes: ClassVar[int]
    """About how long the making takes."""

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Say if there is no place to keep the model."""
        place = next(place for place in (self.path, *self.path.parents) if place.exists())
        if self.to_make() and not (place.is_dir() and os.access(place, os.W_OK)):
            return [f"{place} cannot be written, and the model is kept there; name another place in METHODBENCH_CACHE"]
        return []

    @abc.abstractmethod
    def config(self) -> Mapping[str, Any]:
        """What ``config.json`` will have."""

    def to_make(self) -> str:
        """Whether it is in the cache."""
        incomplete = Directory(self.path).problems()
        return f"making {self.name} once, in about {self.minutes} minutes" if incomplete else ""

    # -- in a process that may import torch ------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What its modules show, whether it is made already or not."""
        import torch
        import transformers

        from bench.models import architecture, examine

        config = transformers.AutoConfig.for_model(self.model_type(), **self.config(), **options)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
        new = tuple(architecture.head_parameters(model)) if "id2label" in options else ()
        return replace(examine.structure(model), new=new, head="new" if new else "pretrained")

    # -- in a process of its own -----------------------------------------------------------------------------

    def make(self, progress: Callable[[str, int, int], None] = lambda what, done, of: None) -> None:
        """Make the files, if nobody has, or is at it.

        Raises:
            OSError: the cache cannot be written.
        """
        if not self.to_make():
            return
        with cache.lock(f"{self.name}/lock"):
            if not self.to_make():
                return
            half = Path(tempfile.mkdtemp(dir=self.path.parent))
            try:
                self.make_in(half, progress)
                shutil.rmtree(self.path, ignore_errors=True)  # what is left of a damaged one
                half.rename(self.path)
            finally:
                shutil.rmtree(half, ignore_errors=True)

    @abc.abstractmethod
    def make_in(self, folder: Path, progress: Callable[[str, int, int], None]) -> None:
        """Write the files into `folder`."""

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model and its tokenizer, made now if they are not there.

        Raises:
            ModelError: they cannot be made, or a file is damaged.
        """
        for problem in self.problems():
            raise ModelError(problem)
        self.make()
        return super().load(auto_class, options)
