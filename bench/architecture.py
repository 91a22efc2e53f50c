"""Parts of a transformers model by what they do, so that no method has to know a model by name."""

from __future__ import annotations

from typing import Any

from torch import nn


def base(model: nn.Module) -> Any:
    """The transformers model, out of PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def body(model: nn.Module) -> nn.Module:
    """The pretrained part without the task's head (transformers' ``base_model``)."""
    found = base(model)
    return getattr(found, found.base_model_prefix, found)  # type: ignore[no-any-return]


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are the task's head: those outside of the body, tied ones left out."""
    inside = {id(parameter) for parameter in body(model).parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in inside}


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks, first to last.

    Raises:
        ValueError: the model has no list of ``config.num_hidden_layers`` blocks.
    """
    count = base(model).config.num_hidden_layers
    for module in body(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} transformer blocks")


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks by their names in `model`: what compression works on."""
    inside = {id(module) for module in blocks(model).modules()}
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside
    }


def feed_forward(model: nn.Module) -> list[tuple[list[nn.Linear], nn.Linear]]:
    """Of each block, the layers that widen to the intermediate size (two where gated) and the one that narrows back.

    Raises:
        ValueError: a block has no such pair.
    """
    hidden = base(model).config.hidden_size
    found = []
    for number, block in enumerate(blocks(model)):
        linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
        # The narrowing layer is the last that ends at the hidden size; what feeds it has its input's width.
        down = [layer for layer in linears if layer.out_features == hidden][-1:]
        up = [layer for layer in linears if down and layer is not down[0] and layer.out_features == down[0].in_features]
        if (
            down and down[0].in_features == hidden
        ):  # an intermediate size equal to the hidden size: attention has it too
            up = linears[-2:-1]
        if not down or not up:
            raise ValueError(f"block {number} of {type(model).__name__} has no feed-forward pair that this can tell")
        found.append((up, down[0]))
    return found
