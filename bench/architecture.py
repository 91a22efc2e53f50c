"""Parts of a transformers model by what they do, so that no method has to know a model by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


def base(model: nn.Module) -> Any:
    """The transformers model, out of PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def members(model: nn.Module) -> list[nn.Module]:
    """The models that an ensemble is made of; of any other, the model itself."""
    return list(getattr(model, "members", [model]))


def body(model: nn.Module) -> nn.Module:
    """The pretrained part without the task's head (transformers' ``base_model``)."""
    found = base(model)
    return getattr(found, found.base_model_prefix, found)  # type: ignore[no-any-return]


def embeddings(model: nn.Module) -> nn.Module:
    """The layer that makes vectors of token ids. A prompt's virtual tokens do not go through it."""
    return base(model).get_input_embeddings()  # type: ignore[no-any-return]


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


def after_blocks(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that come after the last block: final norm, pooler, head. Tied ones and embeddings are left out."""
    inside = {id(parameter) for parameter in blocks(model).parameters()}
    embedded = {id(m.weight) for m in body(model).modules() if isinstance(m, nn.Embedding)}
    named = list(model.named_parameters())
    last = max(place for place, (_, parameter) in enumerate(named) if id(parameter) in inside)
    return {name: parameter for name, parameter in named[last + 1 :] if id(parameter) not in embedded}


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
        linears = [layer for name, layer in _linears(block).items() if not _in_attention(name)]
        # The narrowing layer is the last that ends at the hidden size; what feeds it has its input's width.
        down = [layer for layer in linears if layer.out_features == hidden][-1:]
        up = [layer for layer in linears if down and layer is not down[0] and layer.out_features == down[0].in_features]
        if not down or not up:
            raise ValueError(f"block {number} of {type(model).__name__} has no feed-forward pair that this can tell")
        found.append((up, down[0]))
    return found


@dataclass(frozen=True)
class Attention:
    """A block's attention: the module that splits into heads, and the four linear layers around it."""

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    head_dim: int

    @property
    def heads(self) -> int:
        """How many heads ask."""
        return self.query.out_features // self.head_dim

    @property
    def key_value_heads(self) -> int:
        """How many heads answer: fewer than ask where groups of those share one."""
        return self.key.out_features // self.head_dim


def attention(model: nn.Module) -> list[Attention]:
    """The attention of each block.

    Raises:
        ValueError: a block has no attention made of a query, a key, a value and an output layer.
    """
    found = []
    for number, block in enumerate(blocks(model)):
        linears = {name: layer for name, layer in _linears(block).items() if _in_attention(name)}
        # "query", "q_proj", "q_lin": the first letter tells. "dense", "o_proj", "out_lin" is the output.
        roles = {role[0] if (role := name.rpartition(".")[2])[0] in "qkv" else "o": name for name in linears}
        head_dim = None
        if set(roles) == set("qkvo") and len(linears) == 4:
            module = block.get_submodule(roles["q"].rpartition(".")[0])
            head_dim = getattr(module, "head_dim", getattr(module, "attention_head_size", None))
        if not isinstance(head_dim, int):
            raise ValueError(f"block {number} of {type(model).__name__} has no attention that this can tell")
        query, key, value, output = (linears[roles[role]] for role in "qkvo")
        found.append(Attention(module, query, key, value, output, head_dim))
    return found


def _linears(block: nn.Module) -> dict[str, nn.Linear]:
    """A block's own linear layers by the names that they had before an adapter was put on, whose layers are left out."""
    found: dict[str, nn.Linear] = {}
    for name, child in block.named_children():
        own = getattr(child, "base_layer", child)
        if isinstance(own, nn.Linear):
            found[name] = own
        else:
            found |= {f"{name}.{rest}": layer for rest, layer in _linears(own).items()}
    return found


def _in_attention(name: str) -> bool:
    return "attention" in name.lower() or "attn" in name.lower()
