"""Size on disk of what a user would ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.models.architecture import members

Saver = Callable[[torch.nn.Module, Path], bool]
"""Saves a model in a folder and says True, or leaves it to others and says False."""


def whole(model: torch.nn.Module, folder: Path) -> bool:
    """Pickle all of it, which ``torch.load(folder / "model.pt", weights_only=False)`` reads back."""
    torch.save(model, folder / "model.pt")
    return True


def on_disk(model: torch.nn.Module, folder: Path, savers: Sequence[Saver] = ()) -> dict[str, Any]:
    """Save `model` in `folder` and weigh it: ``{"bytes": total, "files": {relative name: bytes}}``.

    The first saver that says True has saved it; else the model's own ``save_pretrained`` does (for a PEFT
    model that is the adapter without its base), else ``torch.save`` of its state; each member of an ensemble
    into a folder of its own. Bytes are the files'
    lengths. All files count, the configuration too, for nothing loads without it; only ``README.md``, a card
    that PEFT writes for readers, does not. The tokenizer is the same for all methods and is not saved.

    Raises:
        ValueError: there is something in the folder, which would be weighed with it. Exception: what saving
        raised. A saver that failed is not passed over, for half of its files would count.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    models = members(model)
    for number, member in enumerate(models):
        place = folder / f"member{number}" if len(models) > 1 else folder
        place.mkdir(exist_ok=True)
        if not any(saver(member, place) for saver in savers):
            if hasattr(member, "save_pretrained"):
                member.save_pretrained(place)  # type: ignore[operator]
            else:
                torch.save(member.state_dict(), place / "model.pt")
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "README.md"
    }
    return {"bytes": sum(files.values()), "files": files}
