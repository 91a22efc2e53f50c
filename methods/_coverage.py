"""Which weight matrices a model's blocks have: read off the names of its tensors, and not found as methods find them.

So a method that takes a part of the blocks for all of them does not agree with itself here. No torch.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from bench.models.names import plain
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


def matrices(before: Snapshot, model: nn.Module) -> set[str]:
    """Names of the tensors that there were of two or more dimensions in numbered blocks, as in ``encoder.layer.3.…``.

    Tables of embeddings are left out, and so is what `model` has as a buffer, as masks and tables of positions are.
    """
    return {name for name in _wide(before, model) if _numbered(name)}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The same tensors of a model as it stands, those of layers called ``weight`` by the layer's name."""
    classes = {plain(path): type(module).__name__ for path, module in model.named_modules()}
    return {
        name.removesuffix(".weight"): parameter
        for name, parameter in ((plain(name), parameter) for name, parameter in model.named_parameters())
        if parameter.dim() > 1
        and parameter.is_floating_point()
        and _numbered(name)
        and "Embedding" not in classes.get(name.rpartition(".")[0], "")
    }


def covers(before: Snapshot, work: Work, done: Collection[str], what: str) -> Claim:
    """That the tensors called `done` are all weight matrices of the blocks, and no others."""
    wanted, found = matrices(before, work.model), set(done)
    outside = sorted(name.removesuffix(".weight") for name in _wide(before, work.model) - wanted)
    missing = sorted(wanted - found)
    seen = f"{len(found & wanted)} of {len(wanted)}, {len(found - wanted)} others"
    if missing:
        seen += f"; not {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
    return Claim(
        f"all weight matrices of the blocks are {what}, and no others",
        bool(wanted) and found == wanted,
        f"{seen}; outside of blocks are embeddings{''.join(f', {name}' for name in outside)}",
    )


def _wide(before: Snapshot, model: nn.Module) -> set[str]:
    buffers = {plain(name) for name, _ in model.named_buffers()}
    return {
        name
        for name, shape in before.shapes.items()
        if len(shape) > 1
        and name not in buffers
        and "Embedding" not in before.classes.get(name.rpartition(".")[0], "")
        and before.dtypes[name] in ("float32", "float16", "bfloat16")
    }


def _numbered(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))
