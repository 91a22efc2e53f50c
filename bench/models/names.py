"""Names of tensors and modules, without what wraps them."""

from __future__ import annotations


def plain(name: str) -> str:
    """A tensor's or module's name without what PEFT, DDP and torch.compile put in: comparable before and after."""
    for inserted in (".base_layer", ".modules_to_save.default", "_orig_mod."):
        name = name.replace(inserted, "")
    return name.removeprefix("module.").removeprefix("base_model.model.")
