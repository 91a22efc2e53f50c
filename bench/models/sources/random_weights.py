"""Published architectures at their true sizes, with random weights: for memory and speed, which depend on no weight.

Their quality is not measured. Sizes are those of the models' own ``config.json``; only what a matrix' shape or an
operation depends on is written out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.models import structure
from bench.models.base import Model, ModelError
from bench.models.structure import Structure

if TYPE_CHECKING:
    import torch

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
"""The first ids of the tokenizer; bytes follow."""

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}


class RandomWeights(Model):
    """A published architecture with weights as its initialization draws them, always the same ones.

    Its tokenizer takes a text for its bytes, so token ids stay below 261: an embedding is looked up as quickly.
    """

    kind: ClassVar[str] = "random"
    pretrained: ClassVar[bool] = False
    architecture: ClassVar[str]
    """transformers' ``model_type``."""
    size: ClassVar[Mapping[str, Any]]
    """What of ``config.json`` differs from transformers' defaults."""

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """None: nothing is loaded."""
        return []

    def fingerprint(self) -> str:
        """A SHA-256 over architecture and size."""
        return hashlib.sha256(json.dumps([self.architecture, self.config()], sort_keys=True).encode()).hexdigest()

    def model_type(self) -> str:
        """The architecture's."""
        return self.architecture

    def config(self) -> Mapping[str, Any]:
        """What of ``config.json`` matters."""
        return {**self.size, **_IDS}

    # -- in a process that may import torch ------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What its modules show. All weights are drawn, and of these the head counts as new."""
        import torch
        import transformers

        from bench.models import architecture, examine

        config = transformers.AutoConfig.for_model(self.architecture, **self.config(), **options)
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(config, dtype=torch.float32)
        found = examine.tokens(examine.structure(model), _tokenizer(), self.name)
        new = tuple(architecture.head_parameters(model)) if "id2label" in options else ()
        return replace(found, new=new, head="new" if new else "pretrained")

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model, in float32 unless `options` give a ``dtype``, and its tokenizer.

        Raises:
            ModelError: it should be quantized while it is loaded.
        """
        import torch
        import transformers

        from bench.models import architecture

        given = {"dtype": torch.float32, **options}
        dtype = given.pop("dtype")
        if "quantization_config" in given:
            raise ModelError(f"{self.name}: random weights are not loaded, and so not quantized on the way")
        config = transformers.AutoConfig.for_model(self.architecture, **self.config(), **given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: torch.nn.Module = getattr(transformers, auto_class).from_config(config, dtype=dtype)
        architecture.remember_new(model, structure.of(self, self.name, Path(), auto_class, options).new)
        return model, _tokenizer()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    pad, begin, end, mask, unknown = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, mask_token=mask, unk_token=unknown,
        bos_token=begin, cls_token=begin, eos_token=end, sep_token=end,
    )  # fmt: skip


class BertBase(RandomWeights):
    """BERT base of Devlin et al. (https://arxiv.org/abs/1810.04805), 109 million parameters."""

    name = "random:bert-base"
    architecture = "bert"
    size: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip


class BertLarge(RandomWeights):
    """BERT large of Devlin et al. (https://arxiv.org/abs/1810.04805), 335 million parameters."""

    name = "random:bert-large"
    architecture = "bert"
    size: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip


class Qwen05B(RandomWeights):
    """Qwen2.5-0.5B (https://arxiv.org/abs/2412.15115), 494 million parameters, grouped-query attention."""

    name = "random:qwen2.5-0.5b"
    architecture = "qwen2"
    size: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    }  # fmt: skip


class Llama1B(RandomWeights):
    """Llama 3.2 1B (https://arxiv.org/abs/2407.21783), 1.24 billion parameters, grouped-query attention."""

    name = "random:llama-3.2-1b"
    architecture = "llama"
    size: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip


class Llama8B(RandomWeights):
    """Llama 3.1 8B (https://arxiv.org/abs/2407.21783), 8.03 billion parameters, grouped-query attention."""

    name = "random:llama-3.1-8b"
    architecture = "llama"
    size: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip
