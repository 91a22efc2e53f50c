"""Bottleneck adapters. Methods import this inside their hooks, for it imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bench.models import architecture

Placement = Literal["houlsby", "pfeiffer"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Bottleneck(nn.Module):
    """Down to `size`, a nonlinearity, up again and the input added: ``2·size·width + width + size`` weights.

    The way up starts at zero, and the whole as the identity.
    """

    def __init__(self, width: int, size: int, activation: nn.Module) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.activation = activation
        self.up = nn.Linear(size, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input and what the adapter makes of it."""
        out: torch.Tensor = hidden + self.up(self.activation(self.down(hidden)))
        return out


class Adapted(nn.Module):
    """A layer with an adapter behind it."""

    def __init__(self, base_layer: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter = adapter

    @property
    def weight(self) -> Any:
        """The layer's own: some architectures ask it for the type of its numbers."""
        return self.base_layer.weight

    def forward(self, *args: Any) -> torch.Tensor:
        """What the adapter makes of what the layer gives."""
        out: torch.Tensor = self.adapter(self.base_layer(*args))
        return out


def insert(model: nn.Module, size: int, placement: Placement) -> None:
    """Put adapters behind the feed-forward layers, and for houlsby behind attention too."""
    behind = architecture.feed_forward_outputs(model)
    if placement == "houlsby":
        behind += architecture.attention_outputs(model)
    names = {module: name for name, module in model.named_modules()}
    for layer in behind:
        weight, bias = layer.weight, layer.bias
        # A quantized layer says in its bias, if anywhere, which numbers it gives.
        dtype = next((t.dtype for t in (weight, bias) if t is not None and t.is_floating_point()), torch.float32)
        adapter = Bottleneck(layer.out_features, size, nn.GELU() if placement == "houlsby" else nn.ReLU())
        parent, _, own = names[layer].rpartition(".")
        setattr(model.get_submodule(parent), own, Adapted(layer, adapter.to(weight.device, dtype)))


def bottlenecks(model: nn.Module) -> list[Bottleneck]:
    """The adapters in `model`."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


def norms(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the body's normalizations, by their names in `model`."""
    inside = [module for module in architecture.body(model).modules() if "norm" in type(module).__name__.lower()]
    chosen = {id(parameter) for module in inside for parameter in module.parameters(recurse=False)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def save(model: nn.Module, folder: Path, size: int, placement: Placement, names: set[str]) -> None:
    """Write the parameters called `names`, and what :func:`load` needs to put them back."""
    from safetensors.torch import save_file

    tensors = {
        name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters() if name in names
    }
    save_file(tensors, folder / _WEIGHTS)
    base = getattr(architecture.unwrapped(model).config, "_name_or_path", "")
    config = {"method": "adapter", "base_model_name_or_path": base, "size": size, "placement": placement}
    (folder / _CONFIG).write_text(json.dumps(config))


def load(model: nn.Module, folder: Path) -> None:
    """Put what :func:`save` wrote on `model`, a fresh one with the same pretrained weights."""
    from safetensors.torch import load_file

    config = json.loads((folder / _CONFIG).read_text())
    insert(model, config["size"], config["placement"])
    unknown = model.load_state_dict(load_file(folder / _WEIGHTS), strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{folder}: this is an adapter of another model, which has no {unknown[0]}")
