"""A model in a local directory, as transformers' ``save_pretrained`` writes it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import cache
from bench.machine.paths import irregular
from bench.models import structure
from bench.models.base import Model, ModelError
from bench.models.structure import Structure
from bench.recipe.declarations import Fact
from bench.recipe.errors import first_line

if TYPE_CHECKING:
    import torch

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In transformers' own order: the first that is there is what gets loaded."""

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_IMAGES = "preprocessor_config.json"
"""What a model of images has instead of a vocabulary."""
_TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    _IMAGES,
)
SMALL = (
    *_TOKENIZER,
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "*.py",
)
"""All that a model's folder holds beside its weights: an adapter's are small."""

IMAGE_CLASSES = ("AutoModelForImageClassification",)
"""The auto classes whose models read images."""

QUANTIZED = ("bitsandbytes",)
"""The ways of quantization, as config.json names them, that a checkpoint may come with."""


class Directory(Model):
    """A local transformers directory: ``config.json``, a tokenizer's files and weights, sharded or not."""

    tokenizer_folder: Path | None = None
    """Another folder that the tokenizer is in."""

    def __init__(self, path: Path, *, allow_remote_code: bool = False) -> None:
        self.path = path
        self.name = path.resolve().name
        self.allow_remote_code = allow_remote_code

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Name what is missing."""
        return self._problems()

    def _problems(self, *, weights: bool = True) -> list[str]:
        """Name what is missing, of the weights too where they are to be there."""
        if not self.path.is_dir():
            return [f"{self.path}: no such directory"]
        found = [
            f"{file}: it is {what}; transformers would wait for it, so move it away"
            for file in sorted(self.path.iterdir())
            if (what := irregular(file)) and file.name != "config.json"
        ]
        try:
            self.model_type()
        except ModelError as error:
            found.append(str(error))
        try:
            missing = [file.name for file in self._weights() if not file.is_file()] if weights else []
        except ModelError as error:
            found.append(str(error))
        else:
            if missing:
                found.append(f"{self.path}: weights named in its index are missing: {', '.join(missing)}; copy them")
        if not any((self._reads_in / name).is_file() for name in (*VOCABULARIES, _IMAGES)):
            found.append(
                f"{self._reads_in}: it has no tokenizer files (tokenizer.json, vocab.txt, ...); "
                "save the tokenizer there with its save_pretrained"
            )
        return found

    @property
    def _reads_in(self) -> Path:
        """The folder of the tokenizer."""
        return self.tokenizer_folder or self.path

    def fingerprint(self) -> str:
        """A SHA-256 over the contents of configuration, tokenizer and weights.

        Raises:
            ModelError: a file is missing or cannot be read.
        """
        digest = hashlib.sha256()
        for name, content in self._contents():
            digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()

    def model_type(self) -> str:
        """The ``model_type`` in ``config.json``.

        Raises:
            ModelError: there is none.
        """
        found = self.config().get("model_type")
        if not isinstance(found, str):
            file = self.path / "config.json"
            raise ModelError(f"{file}: it has no `model_type`, by which transformers knows the architecture")
        return found

    def config(self) -> Mapping[str, Any]:
        """What is in ``config.json``.

        Raises:
            ModelError: there is none.
        """
        return json_of(self.path / "config.json", "save the model there with its save_pretrained")

    def vocabulary(self) -> Mapping[str, int]:
        """What ``tokenizer.json`` says, if that is there.

        Raises:
            ModelError: it cannot be read.
        """
        file = self._reads_in / "tokenizer.json"
        if not file.is_file():
            return {}
        found = json_of(file, "copy it again")
        pieces = (found.get("model") or {}).get("vocab") or {}
        if isinstance(pieces, list):  # a unigram model's, each with its score
            pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
        return {**pieces, **{token["content"]: token["id"] for token in found.get("added_tokens") or ()}}

    def needs(self) -> tuple[str, ...]:
        """What holds quantized weights."""
        return ("bitsandbytes",) if self._quantized() else ()

    def facts(self) -> frozenset[Fact]:
        """Whether its weights are quantized."""
        return frozenset({"quantized"} if self._quantized() else ())

    def notes(self) -> list[str]:
        """What is to be said of how its weights came, and of code that runs."""
        notes = super().notes()
        if table := self._quantized():
            notes.append(
                f"its weights came quantized, by {table.get('quant_method')}, and every recipe begins with them"
            )
        if self.runs_code():
            notes.append(
                "code that came with its files runs in each stage, which the suite allows (`allow_remote_code`)"
            )
        return notes

    def runs_code(self) -> bool:
        """Whether code that came with its files runs: the configuration names some, and the suite allows it."""
        return self.allow_remote_code and "auto_map" in self.config()

    def _quantized(self) -> Mapping[str, Any]:
        found = self.config().get("quantization_config")
        return found if isinstance(found, dict) else {}

    def _weights(self) -> list[Path]:
        """The weights' files, whether they are there or not.

        Raises:
            ModelError: none is named.
        """
        for name in WEIGHTS:
            file = self.path / name
            if not file.is_file():
                continue
            if not name.endswith(".json"):
                return [file]
            shards = json_of(file, "copy it again").get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise ModelError(f"{file}: it has no `weight_map`, which names the weights' files; copy it again")
            names = sorted(set(map(str, shards.values())))
            for shard in names:
                if Path(shard).name != shard:
                    raise ModelError(
                        f"{file}: `weight_map` names {shard!r}, which is not a file of this folder; copy it there and name "
                        "it without a folder"
                    )
            return [self.path / shard for shard in names]
        adapter = (self.path / "adapter_config.json").is_file()
        mend = (
            "save the adapter there with PEFT's save_pretrained, as adapter_model.safetensors"
            if adapter
            else "save the model there"
        )
        raise ModelError(
            f"{self.path}: it has no weights (model.safetensors or pytorch_model.bin, or their index); {mend}"
        )

    def _contents(self) -> Iterator[tuple[str, str]]:
        """Name and SHA-256 of each file that matters."""
        try:
            code = sorted(file.name for file in self.path.glob("*.py")) if self.runs_code() else []
            for name in ("config.json", *_TOKENIZER, *code):
                file = (self._reads_in if name in _TOKENIZER else self.path) / name
                if file.is_file():
                    yield name, hashlib.sha256(file.read_bytes()).hexdigest()
            for file in self._weights():
                yield file.name, self._weights_hash(file)
        except OSError as error:
            raise ModelError(f"{error.filename or self.path}: cannot be read: {error.strerror or error}") from None

    def _weights_hash(self, file: Path) -> str:
        return cache.sha256(file)

    # -- in a process that may import torch ------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What the model's code and the names of its weights show, and what transformers would make of them."""
        import transformers

        from bench.models import examine

        given = self.config()
        method = self._quantized().get("quant_method", "")
        if method and method not in QUANTIZED:
            why = (
                f"its weights are quantized already, by {method}, and only those of {' and '.join(QUANTIZED)} are read"
            )
            return Structure(
                problems=(f"{self.path}: {why}; name the model as it was before, and quantize it in a recipe",)
            )
        try:
            with quiet():
                config = transformers.AutoConfig.from_pretrained(self.path, **self._local(), **options)
                if type(config) not in getattr(transformers, auto_class)._model_mapping and not self.runs_code():
                    kind = f"transformers has no {auto_class} for a {config.model_type} model"
                    return Structure(
                        problems=(f"{self.path}: {kind}, so it cannot do this kind of task",),
                        auto_classes=examine.auto_classes(config),
                        encoder_decoder=config.is_encoder_decoder,
                    )
                reader = self._reader(auto_class)
                if method or self.to_make():
                    model, report = examine.expected(config, auto_class, new_head="id2label" in options)
                else:
                    model, report = self._from_pretrained(
                        auto_class, {**options, "device_map": "meta", "ignore_mismatched_sizes": True}
                    )
                found = examine.structure(model)
                found = examine.read(
                    found,
                    model,
                    report,
                    str(self.path),
                    new_head=not auto_class.endswith(("CausalLM", "Seq2SeqLM", "AutoModel")),
                )
                found = examine.with_head(found, model, given, options)
                return examine.tokens(found, reader, str(self.path)) if hasattr(reader, "get_vocab") else found
        except Exception as error:
            # Whatever a model's configuration or code raises: what is damaged or unknown is not ours to list.
            if "auto_map" in given and "trust_remote_code" in str(error):
                why = (
                    "it needs code of its own (`auto_map` in config.json), which is not run; if you trust it, say "
                    "allow_remote_code = true in the suite, or name a model of an architecture that transformers has"
                )
            else:
                why = f"transformers cannot load it: {first_line(error)}"
            return Structure(problems=(f"{self.path}: {why}",))

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model, in float32 unless `options` give a ``dtype``, and its tokenizer, with a padding token, or its image processor.

        Raises:
            ModelError: a file is missing or damaged, or holds other weights than the model's.
        """
        for problem in self.problems():
            raise ModelError(problem)
        for file in self._weights():
            _check_readable(file)

        from bench.models import architecture, examine

        found = structure.of(self, str(self.path), Path(), auto_class, options)
        for problem in found.problems:
            raise ModelError(problem)
        with quiet():
            try:
                reader = self._reader(auto_class)
                # Weights of another shape are a head's that is made new: others were refused above.
                model, _ = self._from_pretrained(
                    auto_class,
                    {**self._heeding(options, found), "ignore_mismatched_sizes": found.head == "new"},
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise ModelError(f"{self.path}: transformers cannot load it: {first_line(error)}") from error
        if self._quantized():
            from bench.models import packed

            packed.mend_loaded(model)
        if odd := [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]:
            raise ModelError(
                f"{self.path}: {len(odd)} weights hold numbers that are not finite, as {odd[0]}; copy the file again, or save another checkpoint"
            )
        examine.fit_head(model, found)
        architecture.remember_new(model, found.new)
        config: Any = model.config
        if hasattr(reader, "get_vocab"):
            reader.pad_token, _ = examine.padding_token(reader, found)
            if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
                config.decoder_start_token_id = (
                    reader.pad_token_id
                )  # as T5 has it, whose configuration may leave it out
                model.generation_config.decoder_start_token_id = reader.pad_token_id  # type: ignore[union-attr]
            # A decoder's classifier looks for the last token before the padding, so both must mean the same one.
            config.get_text_config().pad_token_id = reader.pad_token_id
        # A cache of keys and values serves generation alone, which asks for it; elsewhere it costs time and memory.
        config.get_text_config().use_cache = False
        return model, reader

    def _heeding(self, options: Mapping[str, Any], found: Structure) -> Mapping[str, Any]:
        """The task's `options`; where weights came quantized, such that no new head is quantized too, for it has to train."""
        if found.head != "new" or not (table := self._quantized()):
            return options
        import transformers

        skipped = [*(table.get("llm_int8_skip_modules") or ()), *{name.rpartition(".")[0] for name in found.new}]
        config = transformers.AutoConfig.from_pretrained(self.path, **self._local(), **options)
        config.quantization_config = {**table, "llm_int8_skip_modules": skipped}
        return {"config": config}

    def _reader(self, auto_class: str) -> Any:
        """What makes a model's inputs: its tokenizer, or of a model of images its image processor."""
        import transformers

        reads = transformers.AutoImageProcessor if auto_class in IMAGE_CLASSES else transformers.AutoTokenizer
        return reads.from_pretrained(self._reads_in, **self._local())

    def _local(self) -> dict[str, Any]:
        return {"local_files_only": True, "trust_remote_code": self.allow_remote_code}

    def _from_pretrained(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The model, and transformers' report of what it found in the file."""
        import torch
        import transformers

        found: tuple[torch.nn.Module, dict[str, Any]] = getattr(transformers, auto_class).from_pretrained(
            self.path, **self._local(), output_loading_info=True, **{"dtype": torch.float32, **options}
        )
        return found


def json_of(file: Path, mend: str) -> dict[str, Any]:
    """The table in `file`.

    Raises:
        ModelError: there is none; `mend` says what to do where the file is not there.
    """
    if what := irregular(file):
        raise ModelError(f"{file}: cannot be read: it is {what}")
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; {mend}") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file}: not a JSON object")
    return found


def _check_readable(file: Path) -> None:
    """Open a file of weights far enough to tell that it is whole: transformers' errors do not name it."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                pass
        else:
            torch.load(file, map_location="meta", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{file}: the weights cannot be read, so the file is damaged or cut off ({error}); copy it again"
        ) from error
    except Exception as error:
        # Whatever a damaged pickle does: KeyError, UnpicklingError, IndexError, ...
        raise ModelError(
            f"{file}: the weights cannot be read ({type(error).__name__}: {error}); copy it again"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers, and no report that a classification head is new: it always is."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
