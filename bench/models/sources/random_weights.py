"""Published architectures at their true sizes, with random weights: for memory and speed, which depend on no weight.

Their quality is not measured. Sizes are those of the models' own ``config.json``; only what a matrix' shape or an
operation depends on is written out. ``random:bert-base(layers=2, hidden=192)`` is a smaller one of the same shape, and
``random:path/to/config.json`` one of any architecture that transformers has.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bench.machine.paths import PathError, find
from bench.models import conventions, structure
from bench.models.base import Model, ModelError
from bench.models.sources.directory import json_of
from bench.models.structure import Structure
from bench.recipe.errors import nearest

if TYPE_CHECKING:
    import torch

PREFIX = "random:"
"""How the names of these models begin."""

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>", "<unk>")
"""The first ids of the tokenizer; bytes follow."""

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}


class RandomWeights(Model):
    """A published architecture with weights as its initialization draws them, always the same ones.

    Its tokenizer takes a text for its bytes, so token ids stay below 261: an embedding is looked up as quickly.
    """

    kind: ClassVar[str] = "random"
    pretrained: ClassVar[bool] = False
    architecture: str
    """transformers' ``model_type``."""
    size: Mapping[str, Any]
    """What of ``config.json`` differs from transformers' defaults."""

    def resized(self, layers: int | None = None, hidden: int | None = None) -> Self:
        """A smaller one, of `layers` blocks in each stack and `hidden` wide, as far as they are given.

        Heads stay as wide as they are, so there are fewer, and what is inside of feed-forward layers is narrower in proportion.

        Raises:
            ModelError: it has no such sizes, or none that can be so small.
        """
        made = copy.copy(self)
        given = {name: value for name, value in (("layers", layers), ("hidden", hidden)) if value is not None}
        made.name = (
            f"{self.name}({', '.join(f'{name}={value}' for name, value in given.items())})" if given else self.name
        )
        size = dict(self.size)
        for name, value in given.items():
            keys = [key for key in {"layers": conventions.LAYERS, "hidden": conventions.WIDTHS}[name] if key in size]
            if not keys:
                raise ModelError(
                    f"{made.name}: {name}: the configuration of {self.name} does not say how large it is; write it there"
                )
            whole = size[keys[0]]
            if not 1 <= value <= whole:
                raise ModelError(
                    f"{made.name}: {name}: {self.name} has {whole}, and a smaller one at least 1, found {value}"
                )
            size |= dict.fromkeys(keys, value)
            if name == "layers":  # and what is said of each block by itself
                size |= {
                    key: found[:value] for key, found in size.items() if isinstance(found, list) and len(found) == whole
                }
            else:
                size |= _in_proportion(size, value, whole, made.name)
        made.size = size
        return made

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


def _in_proportion(size: Mapping[str, Any], hidden: int, whole: int, name: str) -> dict[str, int]:
    """What becomes of heads and of inner widths where the hidden states are `hidden` wide and not `whole`."""
    made = {}
    for key in conventions.ALL_HEADS:
        if key in size:
            heads, left = divmod(size[key] * hidden, whole)
            if left or not heads:
                step = whole // math.gcd(size[key], whole)
                raise ModelError(
                    f"{name}: hidden: heads stay as wide as they are, so it is a multiple of {step}, found {hidden}"
                )
            made[key] = heads
    for key in conventions.KEY_VALUE_HEADS:
        if isinstance(shared := size.get(key), int):
            # Groups of those that ask share one that answers, so these divide those.
            most = max(1, shared * hidden // whole)
            made[key] = next(n for n in range(most, 0, -1) if all(heads % n == 0 for heads in made.values()))
    for key in conventions.INNER_WIDTHS:
        if isinstance(inner := size.get(key), int):
            made[key] = max(8, round(inner * hidden / whole / 8) * 8)
    return made


class OfConfig(RandomWeights):
    """An architecture as a ``config.json`` has it."""

    def __init__(self, file: Path, name: str) -> None:
        table = json_of(file, "write the config.json of a model there")
        self.name = name
        self.file = file
        self.architecture = table.pop("model_type", "")
        self.size = {key: value for key, value in table.items() if key not in _NOT_SIZES}

    def problems(self) -> list[str]:
        """Say if it is of no architecture, or of one whose vocabulary is too small."""
        if not self.architecture:
            return [f"{self.file}: it has no `model_type`, by which transformers knows the architecture"]
        least = len(SPECIAL) + 256
        if self.size.get("vocab_size", least) < least:
            return [
                f"{self.file}: `vocab_size` is {self.size['vocab_size']}, and texts are read as bytes, which takes {least}; raise it"
            ]
        return []


_NOT_SIZES = (
    "architectures", "auto_map", "dtype", "id2label", "label2id", "num_labels", "problem_type", "quantization_config",
    "task_specific_params", "torch_dtype", "transformers_version", "_name_or_path",
)  # fmt: skip
"""What a ``config.json`` has of the weights beside it, or of their task."""


def opened(spec: str, suite_folder: Path) -> RandomWeights:
    """What ``random:NAME`` or ``random:FILE`` names, smaller where arguments in brackets follow: ``layers`` and ``hidden``.

    Raises:
        ModelError: there is no such model or file, or an argument is wrong.
    """
    from bench.models.registry import models

    text, bracket, arguments = spec.partition("(")
    model: Model
    if known := models().get(text):
        model = known()
    else:
        names = [name for name in models() if name.startswith(PREFIX)]
        try:
            file = find(text.removeprefix(PREFIX), suite_folder)
        except PathError as error:
            raise ModelError(f"model: {error}") from None
        if not file.is_file():
            raise ModelError(
                f"`{text}` is neither one of {', '.join(names)} nor a config.json ({file}){nearest(text, names)}"
            )
        model = OfConfig(file, text)
    if not isinstance(model, RandomWeights):
        raise ModelError(f"{text}: it has weights of its own, and takes no arguments")
    return model.resized(**_arguments(spec, bracket + arguments)) if bracket else model


def _arguments(spec: str, brackets: str) -> dict[str, int]:
    try:
        call = ast.parse(f"f{brackets}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ModelError(
            f"{spec}: the sizes stand in brackets by their names, as in {PREFIX}bert-base(layers=2, hidden=192)"
        )
    found = {}
    for each in call.keywords:
        if each.arg not in ("layers", "hidden"):
            raise ModelError(f"{spec}: unknown argument `{each.arg}`{nearest(str(each.arg), ('layers', 'hidden'))}")
        if not isinstance(each.value, ast.Constant) or type(each.value.value) is not int:
            raise ModelError(f"{spec}: {each.arg}: it is a whole number, found {ast.unparse(each.value)}")
        found[each.arg] = each.value.value
    return found


class BertBase(RandomWeights):
    """BERT base of Devlin et al. (https://arxiv.org/abs/1810.04805), 109 million parameters."""

    name = "random:bert-base"
    architecture = "bert"
    size: Mapping[str, Any] = {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip


class BertLarge(RandomWeights):
    """BERT large of Devlin et al. (https://arxiv.org/abs/1810.04805), 335 million parameters."""

    name = "random:bert-large"
    architecture = "bert"
    size: Mapping[str, Any] = {
        "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip


class Qwen05B(RandomWeights):
    """Qwen2.5-0.5B (https://arxiv.org/abs/2412.15115), 494 million parameters, grouped-query attention."""

    name = "random:qwen2.5-0.5b"
    architecture = "qwen2"
    size: Mapping[str, Any] = {
        "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    }  # fmt: skip


class Llama1B(RandomWeights):
    """Llama 3.2 1B (https://arxiv.org/abs/2407.21783), 1.24 billion parameters, grouped-query attention."""

    name = "random:llama-3.2-1b"
    architecture = "llama"
    size: Mapping[str, Any] = {
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
    size: Mapping[str, Any] = {
        "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip


class T5Small(RandomWeights):
    """T5 small of Raffel et al. (https://arxiv.org/abs/1910.10683), 60.5 million parameters, an encoder and a decoder."""

    name = "random:t5-small"
    architecture = "t5"
    size: Mapping[str, Any] = {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "decoder_start_token_id": 0,
    }  # fmt: skip
