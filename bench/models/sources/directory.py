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

if TYPE_CHECKING:
    import torch

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In transformers' own order: the first that is there is what gets loaded."""

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TOKENIZER = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class Directory(Model):
    """A local transformers directory: ``config.json``, a tokenizer's files and weights, sharded or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Name what is missing."""
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
            missing = [file.name for file in self._weights() if not file.is_file()]
        except ModelError as error:
            found.append(str(error))
        else:
            if missing:
                found.append(f"{self.path}: weights named in its index are missing: {', '.join(missing)}; copy them")
        if not any((self.path / name).is_file() for name in _VOCABULARIES):
            found.append(
                f"{self.path}: it has no tokenizer files (tokenizer.json, vocab.txt, ...); "
                "save the tokenizer there with its save_pretrained"
            )
        return found

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
        return _json(self.path / "config.json", "save the model there with its save_pretrained")

    def vocabulary(self) -> Mapping[str, int]:
        """What ``tokenizer.json`` says, if that is there.

        Raises:
            ModelError: it cannot be read.
        """
        file = self.path / "tokenizer.json"
        if not file.is_file():
            return {}
        found = _json(file, "copy it again")
        pieces = (found.get("model") or {}).get("vocab") or {}
        if isinstance(pieces, list):  # a unigram model's, each with its score
            pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
        return {**pieces, **{token["content"]: token["id"] for token in found.get("added_tokens") or ()}}

    def _weights(self) -> list[Path]:
        """The weights' files, whether they are there or not.

        Raises:
            ModelError: none is named.
        """
        for name in _WEIGHTS:
            file = self.path / name
            if not file.is_file():
                continue
            if not name.endswith(".json"):
                return [file]
            shards = _json(file, "copy it again").get("weight_map")
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
            "it holds a PEFT adapter alone; merge that into its base model and save the whole"
            if adapter
            else "save the model there"
        )
        raise ModelError(
            f"{self.path}: it has no weights (model.safetensors or pytorch_model.bin, or their index); {mend}"
        )

    def _contents(self) -> Iterator[tuple[str, str]]:
        """Name and SHA-256 of each file that matters."""
        try:
            for name in ("config.json", *_TOKENIZER):
                file = self.path / name
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
        if "quantization_config" in given:
            method = given["quantization_config"].get("quant_method", "a method that it does not name")
            return Structure(
                problems=(
                    f"{self.path}: its weights are quantized already, by {method}; name the model as it was before, "
                    "and quantize it in a recipe",
                )
            )
        try:
            with quiet():
                config = transformers.AutoConfig.from_pretrained(
                    self.path, local_files_only=True, trust_remote_code=False
                )
                if type(config) not in getattr(transformers, auto_class)._model_mapping:
                    kind = f"transformers has no {auto_class} for a {config.model_type} model"
                    return Structure(
                        problems=(f"{self.path}: {kind}, so it cannot do this kind of task",),
                        auto_classes=examine.auto_classes(config),
                        encoder_decoder=config.is_encoder_decoder,
                    )
                tokenizer = self._tokenizer()
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
                return examine.tokens(found, tokenizer, str(self.path))
        except Exception as error:
            # Whatever a model's configuration or code raises: what is damaged or unknown is not ours to list.
            if given.get("auto_map") and "trust_remote_code" in str(error):
                why = "it needs code of its own (`auto_map` in config.json), which is not run; name a model of an architecture that transformers has"
            else:
                why = f"transformers cannot load it: {_first_line(error)}"
            return Structure(problems=(f"{self.path}: {why}",))

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """The model, in float32 unless `options` give a ``dtype``, and its tokenizer, with a padding token.

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
                tokenizer = self._tokenizer()
                # Weights of another shape are a head's that is made new: others were refused above.
                model, _ = self._from_pretrained(
                    auto_class, {**options, "ignore_mismatched_sizes": found.head == "new"}
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise ModelError(f"{self.path}: transformers cannot load it: {_first_line(error)}") from error
        if odd := [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]:
            raise ModelError(
                f"{self.path}: {len(odd)} weights hold numbers that are not finite, as {odd[0]}; copy the file again, or save another checkpoint"
            )
        examine.fit_head(model, found)
        architecture.remember_new(model, found.new)
        tokenizer.pad_token, _ = examine.padding_token(tokenizer, found)
        config: Any = model.config
        # A decoder's classifier looks for the last token before the padding, so both must mean the same one.
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
        # A cache of keys and values serves generation alone, which asks for it; elsewhere it costs time and memory.
        config.get_text_config().use_cache = False
        return model, tokenizer

    def _tokenizer(self) -> Any:
        import transformers

        return transformers.AutoTokenizer.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)

    def _from_pretrained(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The model, and transformers' report of what it found in the file."""
        import torch
        import transformers

        found: tuple[torch.nn.Module, dict[str, Any]] = getattr(transformers, auto_class).from_pretrained(
            self.path,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{"dtype": torch.float32, **options},
        )
        return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _json(file: Path, mend: str) -> dict[str, Any]:
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
