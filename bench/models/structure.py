"""What planning knows of a model: what its code and the names and shapes of its weights show, with no weight read.

:mod:`bench.models.examine` finds it, which needs torch; planning does without torch, so it asks a process of its own,
once for each model and kind of task. The answer is kept in :mod:`bench.machine.cache` by all that it comes from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import cache

if TYPE_CHECKING:
    from bench.models.base import Model

_FORMAT = 6  # raised when the same model would be described otherwise
_PACKAGES = ("torch", "transformers", "tokenizers", "peft")


@dataclass(frozen=True)
class Structure:
    """A model with the head of one kind of task.

    ``problems`` say why it cannot be used, in a sentence each, and ``notes`` what was decided for it. ``config`` is the
    complete configuration, with transformers' standard names beside the model's own. ``new`` names the parameters that
    no file holds: transformers draws them at random. ``head`` is "kept", "new" or, of a model that brings the task's
    head with it, "pretrained"; ``order`` has for each label of the task its place in a kept head. ``stacks`` counts the
    blocks of each list of blocks, and ``repeats`` says that a pass calls a block more than once. ``not_linear`` names
    the classes of layers in the blocks that hold weight matrices and are no ``torch.nn.Linear``. ``untold`` has why a
    part of the blocks is not known, by the name of the function of :mod:`bench.models.architecture` or
    :mod:`bench.models.passes` that looks for it.
    ``biases`` counts the biases in the blocks; ``layers`` has the last part of the name of each layer that PEFT can put
    an adapter on, with its class, and ``targets`` those that an adapter is put on by default, by PEFT's name of the method.
    ``cache`` is what takes a cache of keys and values: "model", "body" or nothing; ``cache_heads`` counts
    the heads whose keys and values it holds, None where that does not show. ``needs_ids`` says that the head
    looks for its token by token ids, and ``reads_end`` that this token is the end of the text. ``casts`` names modules that cast what they are given to the type of a weight.
    ``embeddings`` counts the rows of the token embeddings, ``positions`` the tokens that one pass can have.
    ``auto_classes`` names transformers' auto classes that have the architecture: the heads that can be put on it; and
    ``drops`` says whether something drops out in training in the "body" and in the "head". ``packs`` says that its code
    makes its attention's mask of the positions of tokens, where these begin again within a row, and ``chat_template`` that
    its tokenizer has one.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    head: str = ""
    order: tuple[int, ...] = ()
    stacks: tuple[int, ...] = ()
    repeats: bool = False
    not_linear: tuple[str, ...] = ()
    untold: Mapping[str, str] = field(default_factory=dict)
    biases: int = 0
    layers: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cache: str = ""
    cache_heads: int | None = None
    encoder_decoder: bool = False
    needs_ids: bool = False
    reads_end: bool = False
    checkpoints: bool = False
    casts: tuple[str, ...] = ()
    embeddings: int = 0
    positions: int | None = None
    auto_classes: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    packs: bool = False
    chat_template: bool = False

    @property
    def both_ways(self) -> bool:
        """Whether it reads a text in both directions, and so learns by masking and not by predicting: an encoder."""
        masks = "AutoModelForMaskedLM" in self.auto_classes
        return masks and not self.encoder_decoder and not self.config.get("is_decoder")

    @property
    def one_way(self) -> bool:
        """Whether it is known to read a text from the left alone."""
        return bool(self.auto_classes) and not self.both_ways and not self.encoder_decoder

    @classmethod
    def parse(cls, text: str) -> Structure:
        """What :meth:`spell` wrote."""
        table = json.loads(text)
        lists = {name: tuple(value) for name, value in table.items() if isinstance(value, list)}
        targets = {name: tuple(chosen) for name, chosen in table["targets"].items()}
        return cls(**{**table, **lists, "targets": targets})

    def spell(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def of(model: Model, spec: str, suite_folder: Path, auto_class: str, options: Mapping[str, Any]) -> Structure:
    """The structure of `model`, which a suite in the folder `base` calls `spec`, loaded as a task loads it.

    Where torch is imported already it is found here, else in a process of its own, in some seconds.
    """
    job = {
        "model": spec,
        "suite_folder": str(suite_folder),
        "allow_remote_code": model.allow_remote_code,
        "auto_class": auto_class,
        "options": options,
    }
    # What is known before its files are there is little, and does not stay.
    name = None if model.to_make() else _cache_name(model, auto_class, options)
    if name is not None:
        try:
            return Structure.parse((cache.folder() / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError):
            pass  # there is none yet, or it is damaged
    found = model.examine(auto_class, options) if "torch" in sys.modules else _apart(job)
    if name is not None and not found.problems:
        cache.write(name, found.spell().encode())
    return found


def _apart(job: Mapping[str, Any]) -> Structure:
    # No working directory on the path: a module of the user's folder must not shadow ours.
    command = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path[:] = {sys.path!r}; import bench.models.examine as e; e.main()",
    ]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"]
        return Structure(problems=(f"{job['model']}: transformers could not build it: {said[-1]}",))
    return Structure.parse(done.stdout.splitlines()[-1])


def _cache_name(model: Model, auto_class: str, options: Mapping[str, Any]) -> str | None:
    """Named by all that it comes from."""
    made_of: dict[str, Any] = {
        "format": _FORMAT,
        "model": model.fingerprint(),
        "auto_class": auto_class,
        "options": {key: sorted(value.items()) if isinstance(value, dict) else value for key, value in options.items()},
    }
    for package in _PACKAGES:
        try:
            made_of[package] = version(package)
        except PackageNotFoundError:
            return None
    return f"structure/{hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:32]}"
