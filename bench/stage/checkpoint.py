"""Models between the processes of one machine: whole, private, and named by what they were made from.

A checkpoint is a pickled module, so it holds whatever a method made of the model, and is read only from a folder that
nobody else can write to. It is no format to keep: the node's identity, which holds all versions, is its name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import disk

if TYPE_CHECKING:
    import torch

    from bench.tasks.base import Answers


def folder(results: Path) -> Path:
    """Where a results folder's checkpoints are, made if need be, closed to others."""
    path = results / "checkpoints"
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


ABANDONED = 3600
"""Seconds after which nobody is writing a report any more."""


def sweep(results: Path) -> None:
    """Remove what killed processes left in a results folder: half files, temporary ones. Its lock is held."""
    own = temporary(results)
    for half in (results / "checkpoints").glob("*.part"):
        half.unlink(missing_ok=True)
    for half in results.glob("*.part"):
        # Reports are written without the lock, so this may be one that another process is at.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - half.stat().st_mtime > ABANDONED:
                half.unlink()
    for other in own.parent.glob("*"):
        if other != own:
            shutil.rmtree(other, ignore_errors=True)


def temporary(results: Path) -> Path:
    """This process's folder for temporary files in a results folder."""
    return results / "temporary" / str(os.getpid())


def path(results: Path, node: str) -> Path:
    """The checkpoint of a node."""
    return results / "checkpoints" / f"{node}.pt"


def present(results: Path) -> set[str]:
    """The nodes whose checkpoints are there."""
    return {file.stem for file in (results / "checkpoints").glob("*.pt")}


def of_training(checkpoint: Path) -> Path:
    """Where a training that leaves `checkpoint` keeps what it needs to go on in another process."""
    return checkpoint.with_suffix(".training")


def unfinished(results: Path) -> set[str]:
    """The nodes whose trainings can go on."""
    return {file.stem for file in (results / "checkpoints").glob("*.training")}


def remove(results: Path, nodes: Iterable[str]) -> None:
    """Remove the checkpoints of `nodes`.

    Raises:
        OSError: one cannot be removed.
    """
    for node in nodes:
        path(results, node).unlink(missing_ok=True)


def save(file: Path, model: torch.nn.Module, tokenizer: Any, answers: Answers | None = None) -> None:
    """Write a checkpoint; a reader sees all of it or none. `answers` are what the model answers on the test split.

    Raises:
        OSError: it cannot be written; of a full disk, torch raises another error, with this one in its context.
    """
    import torch

    # Torch's own files do not say why they could not be written.
    with disk.atomic(file) as half, half.open("wb") as stream:
        half.chmod(0o600)
        torch.save({"model": model, "tokenizer": tokenizer, "answers": answers or []}, stream)


def write(file: Path, content: bytes) -> None:
    """Write a checkpoint that was saved elsewhere, in the same way."""
    with disk.atomic(file) as half:
        half.write_bytes(content)
        half.chmod(0o600)


def load(file: Path) -> tuple[torch.nn.Module, Any]:
    """Read a checkpoint's model and tokenizer.

    Raises:
        PermissionError: the file, or its folder, belongs to or can be written by somebody else.
    """
    whole = _read(file)
    _can_record(whole["model"])
    return whole["model"], whole["tokenizer"]


def answers(file: Path) -> Answers:
    """Read what a checkpoint's model answers on the test split; empty where that was not kept.

    Raises:
        PermissionError: as :func:`load`.
    """
    return list(_read(file).get("answers", ()))


def private(file: Path) -> None:
    """Make sure that nobody else could have written `file`, which will be unpickled.

    Raises:
        PermissionError: the file, or its folder, belongs to or can be written by somebody else.
    """
    for place in (file.parent, file):
        status = place.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise PermissionError(f"{place}: a checkpoint is unpickled, and others could have written this one")


def _read(file: Path) -> dict[str, Any]:
    import torch

    private(file)
    with warnings.catch_warnings():
        # Torch says it to itself, of its own quantized tensors.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        whole: dict[str, Any] = torch.load(file, weights_only=False, map_location="cpu")
    return whole


def _can_record(model: torch.nn.Module) -> None:
    """Let the models inside give their hidden states and attentions.

    transformers notes what a class can record when it builds a model of it, and unpickling builds none.
    """
    with contextlib.suppress(ImportError):  # other versions note it elsewhere
        from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

        for module in model.modules():
            if hasattr(module, "_can_record_outputs"):
                _CAN_RECORD_REGISTRY[module] = module._can_record_outputs
