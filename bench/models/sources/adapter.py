"""A PEFT adapter that was saved alone: it is folded into the model that it was trained on, as that is loaded."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import cache
from bench.models.base import Model, ModelError
from bench.models.sources.directory import VOCABULARIES, WEIGHTS, Directory, json_of, quiet
from bench.models.structure import Structure
from bench.recipe.declarations import Fact
from bench.recipe.errors import first_line

if TYPE_CHECKING:
    import torch

    from bench.models.sources.hub import Snapshot

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"

FOLDED = ("ADALORA", "IA3", "LOHA", "LOKR", "LORA")
"""PEFT's names of the adapters that can be folded into weights."""


def alone(folder: Path) -> bool:
    """Whether `folder` holds an adapter, and no model."""
    there = all((folder / name).is_file() for name in (CONFIG, _WEIGHTS))
    return there and not any((folder / name).is_file() for name in WEIGHTS)


def opened(
    folder: Path, name: str, suite_folder: Path, snapshot: Snapshot | None = None, *, allow_remote_code: bool = False
) -> Adapter:
    """The adapter in `folder` with its base model: a folder, seen from its own or from the suite's, else a name on the hub.

    Raises:
        ModelError: its base model cannot be found.
    """
    from bench.models.registry import open_model

    config = json_of(folder / CONFIG, "save the adapter there with its save_pretrained")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{folder / CONFIG}: it has no `base_model_name_or_path`, the model that the adapter is for; name it there"
        )
    beside = (folder / base).resolve()
    if beside == folder.resolve():
        raise ModelError(
            f"{folder / CONFIG}: `base_model_name_or_path` is the adapter's own folder; name the model that it is for"
        )
    named = str(beside) if beside.is_dir() else base
    if (
        isinstance(revision, str)
        and revision
        and not (beside.is_dir() or (suite_folder / base).is_dir() or "@" in base)
    ):
        named = f"{base}@{revision}"
    try:
        return Adapter(folder, name, open_model(named, suite_folder, allow_remote_code=allow_remote_code), snapshot)
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}: `base_model_name_or_path`: {error}") from None


class Adapter(Model):
    """A model with an adapter folded into its weights, so that every method works on it as on any other."""

    def __init__(self, folder: Path, name: str, base: Model, snapshot: Snapshot | None = None) -> None:
        self.path, self.name, self.base, self.snapshot = folder, name, base, snapshot
        self.allow_remote_code = base.allow_remote_code
        if isinstance(base, Directory) and any((folder / each).is_file() for each in VOCABULARIES):
            base.tokenizer_folder = folder

    # -- planning, without torch -----------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Say what is wrong with its base model, and why it cannot be folded into that."""
        found = self.base.problems()
        kind = json_of(self.path / CONFIG, "copy it again").get("peft_type")
        if kind not in FOLDED:
            found.append(
                f"{self.path}: an adapter of the kind {kind} cannot be folded into weights; those of {', '.join(FOLDED)} can"
            )
        if not found and "quantized" in self.base.facts():
            found.append(
                f"{self.path / CONFIG}: the weights of {self.base.name} are quantized, and rounding what is folded in would lose "
                "most of it; name in `base_model_name_or_path` the model as it was before"
            )
        return found

    def fingerprint(self) -> str:
        """A SHA-256 over the adapter and its base model."""
        files = [cache.sha256(self.path / name) for name in (CONFIG, _WEIGHTS)]
        return hashlib.sha256(" ".join([*files, self.base.fingerprint()]).encode()).hexdigest()

    def model_type(self) -> str:
        """That of its base model."""
        return self.base.model_type()

    def config(self) -> Mapping[str, Any]:
        """That of its base model."""
        return self.base.config()

    def vocabulary(self) -> Mapping[str, int]:
        """That of its own tokenizer, or of its base model's."""
        return self.base.vocabulary()

    def needs(self) -> tuple[str, ...]:
        """PEFT, and what its base model needs."""
        return ("peft", *self.base.needs())

    def facts(self) -> frozenset[Fact]:
        """Those of its base model."""
        return self.base.facts()

    def notes(self) -> list[str]:
        """What it is made of."""
        came = f", commit {self.snapshot.commit} of {self.snapshot.repository} on the hub" if self.snapshot else ""
        below = [f"of its base model {self.base.name}: {note}" for note in self.base.notes()]
        return [f"an adapter{came}, which is folded into the weights of {self.base.name} as that is loaded", *below]

    def pinned(self, spec: str) -> str:
        """With the commit, where it is on the hub."""
        return f"{self.snapshot.repository}@{self.snapshot.commit}" if self.snapshot else spec

    def to_make(self) -> str:
        """Whether its base model is to be fetched or made."""
        return self.base.to_make()

    # -- in a process that may import torch ------------------------------------------------------------------

    def examine(self, auto_class: str, options: Mapping[str, Any]) -> Structure:
        """What its base model shows, and whether that has the layers that the adapter is put on."""
        from safetensors import safe_open

        found = self.base.examine(auto_class, options)
        with safe_open(self.path / _WEIGHTS, framework="pt") as file:
            layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in file.keys() if ".lora_" in name}  # noqa: SIM118
        if not found.problems and (other := sorted(layers - found.layers.keys())):
            why = f"the adapter is put on layers that {self.base.name} does not have ({', '.join(other)})"
            return replace(
                found, problems=(f"{self.path}: {why}; name its own base model in `base_model_name_or_path`",)
            )
        return found

    def make(self, progress: Callable[[str, int, int], None]) -> None:
        """Fetch or make its base model."""
        self.base.make(progress)

    def load(self, auto_class: str, options: Mapping[str, Any]) -> tuple[torch.nn.Module, Any]:
        """Its base model with the adapter in its weights, and the tokenizer.

        Raises:
            ModelError: a file is damaged, or the adapter is another model's.
        """
        for problem in self.problems():
            raise ModelError(problem)
        model, tokenizer = self.base.load(auto_class, options)
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
        from safetensors.torch import load_file

        from bench.models import architecture

        try:
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT tells of names that transformers deprecates
                config, weights = PeftConfig.from_pretrained(str(self.path)), load_file(self.path / _WEIGHTS)
                # By the first PEFT would take a classifier's head for a part of the adapter; the other it tells to be another.
                config.task_type = config.base_model_name_or_path = None
                if "id2label" in options:
                    # The task makes the head: an adapter does not say which labels its own is for.
                    heads = {name.partition(".")[0] for name in architecture.head_parameters(model)}
                    config.modules_to_save = [n for n in config.modules_to_save or () if n not in heads] or None
                    weights = {
                        name: tensor
                        for name, tensor in weights.items()
                        if name.removeprefix("base_model.model.").partition(".")[0] not in heads
                    }
                adapted: Any = get_peft_model(model, config)
                result = set_peft_model_state_dict(adapted, weights)
                own = [name for name in result.missing_keys if adapted.base_model.prefix in name]
                if odd := [*result.unexpected_keys, *own]:
                    raise ModelError(
                        f"{self.path}: {len(odd)} of its weights are not those of an adapter of {self.base.name}, as {odd[0]}; name "
                        "its own base model in `base_model_name_or_path`"
                    )
                merged: torch.nn.Module = adapted.merge_and_unload()
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise ModelError(f"{self.path}: PEFT cannot load it: {first_line(error)}") from error
        return merged.requires_grad_(True), tokenizer
