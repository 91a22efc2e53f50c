"""Parts of a transformers model by what they do, so that no method has to know a model by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.models import conventions
from bench.models.names import plain


def unwrapped(model: nn.Module) -> Any:
    """The transformers model, out of PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def members(model: nn.Module) -> list[nn.Module]:
    """The models that an ensemble is made of; of any other, the model itself."""
    return list(getattr(model, "members", [model]))


def config(model: nn.Module) -> Any:
    """The configuration that says how large the text model is, also where it is nested in another."""
    return unwrapped(model).config.get_text_config()


def body(model: nn.Module) -> nn.Module:
    """The pretrained part without the task's head (transformers' ``base_model``)."""
    found = unwrapped(model)
    return getattr(found, found.base_model_prefix, found)  # type: ignore[no-any-return]


def embeddings(model: nn.Module) -> nn.Module:
    """The layer that makes vectors of token ids. A prompt's virtual tokens do not go through it."""
    return unwrapped(model).get_input_embeddings()  # type: ignore[no-any-return]


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are the task's head: those outside of the body, tied ones left out."""
    inside = {id(parameter) for parameter in body(model).parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in inside}


# -- blocks


def stacks(model: nn.Module) -> list[nn.ModuleList]:
    """The lists of transformer blocks, in the order of the model: one, or an encoder's and a decoder's.

    A list is one of blocks if it is in no other list and has modules with at least three layers inside.
    """
    found: list[nn.ModuleList] = []
    inside: set[nn.Module] = set()
    for module in body(model).modules():
        if isinstance(module, nn.ModuleList) and module not in inside and any(map(_is_block, module)):
            found.append(module)
            inside |= set(module.modules())
    return found


def _is_block(module: nn.Module) -> bool:
    return sum(not list(inner.children()) for inner in module.modules()) >= 3


def blocks(model: nn.Module) -> list[nn.Module]:
    """All transformer blocks, an encoder's before a decoder's. Each stands here once, however often a pass calls it.

    Raises:
        ValueError: the model has no list of blocks.
    """
    found = [block for stack in stacks(model) for block in stack]
    if not found:
        raise ValueError(f"{type(unwrapped(model)).__name__} has no list of transformer blocks")
    return found


def stack(model: nn.Module) -> nn.ModuleList:
    """The one list of blocks of a model that calls each of them once, first to last.

    Raises:
        ValueError: the model has none, or several, or calls its blocks more than once.
    """
    found = stacks(model)
    count = config(model).num_hidden_layers
    if len(found) != 1 or len(found[0]) != count:
        sizes = ", ".join(str(len(each)) for each in found) or "no"
        raise ValueError(
            f"{type(unwrapped(model)).__name__} has {sizes} blocks where its configuration counts {count} in one stack"
        )
    return found[0]


def around(model: nn.Module) -> tuple[list[str], list[str]]:
    """The names in the body of its children that have weights: those before the one that holds the blocks, and those after.

    Raises:
        ValueError: the model has no one list of blocks.
    """
    layers, inner = stack(model), body(model)
    named = [name for name, child in inner.named_children() if any(True for _ in child.parameters())]
    at = next(place for place, name in enumerate(named) if layers in inner.get_submodule(name).modules())
    return named[:at], named[at + 1 :]


def after_blocks(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that come after the last block: final norm, pooler, head. Tied ones and embeddings are left out."""
    inside = {id(parameter) for parameter in stack(model).parameters()}
    embedded = {id(m.weight) for m in body(model).modules() if isinstance(m, nn.Embedding)}
    named = list(model.named_parameters())
    last = max(place for place, (_, parameter) in enumerate(named) if id(parameter) in inside)
    return {name: parameter for name, parameter in named[last + 1 :] if id(parameter) not in embedded}


# -- layers


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks by their names in `model`: what compression works on."""
    inside = {module for block in blocks(model) for module in block.modules()}
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module in inside
    }


def not_linear(model: nn.Module) -> dict[str, nn.Module]:
    """The modules inside the blocks that hold weight matrices and are no ``nn.Linear`` (nor embeddings), by name.

    GPT-2's ``Conv1D`` and experts that are one parameter of three dimensions are such.
    """
    inside = {module for block in blocks(model) for module in block.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if module in inside
        and not isinstance(module, nn.Linear | nn.Embedding)
        and any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
    }


def as_linear(model: nn.Module) -> None:
    """Make plain ``nn.Linear`` of the blocks' layers whose classes are subclasses of it that compute the same.

    Libraries look for the very class. Falcon's layers are such a subclass.

    Raises:
        ValueError: a subclass computes something else.
    """
    import torch

    for name, layer in block_linears(model).items():
        if type(layer).__module__.split(".")[0] != "transformers":
            continue
        probe = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight)
        with torch.no_grad():
            expected = nn.functional.linear(probe, layer.weight, layer.bias)
            if not torch.allclose(layer(probe), expected, rtol=1e-4, atol=1e-5):
                raise ValueError(
                    f"{name} is a {type(layer).__name__}, which computes something else than a linear layer"
                )
        layer.__class__ = nn.Linear


def feed_forward_outputs(model: nn.Module) -> list[nn.Linear]:
    """Of each block, the layer that narrows back to the hidden size.

    Raises:
        ValueError: a block has no such layer.
    """
    hidden = config(model).hidden_size
    found = []
    for number, block in enumerate(blocks(model)):
        outside = [layer for name, layer in _linears(block).items() if not _in_attention(name)]
        # The last that ends at the hidden size; one that does not narrow is no feed-forward layer's.
        narrowing = [layer for layer in outside if layer.out_features == hidden != layer.in_features]
        narrowing = narrowing or [layer for layer in outside if layer.out_features == hidden]
        if not narrowing:
            raise ValueError(
                f"block {number} of {type(unwrapped(model)).__name__} has no linear layer outside of its attention that gives hidden states"
            )
        found.append(narrowing[-1])
    return found


def feed_forward(model: nn.Module) -> list[tuple[list[nn.Linear], nn.Linear]]:
    """Of each block, the layers that widen to the intermediate size (two where gated) and the one that narrows back.

    Raises:
        ValueError: a block has no such pair.
    """
    found = []
    for number, (block, down) in enumerate(zip(blocks(model), feed_forward_outputs(model), strict=True)):
        layers = [layer for name, layer in _linears(block).items() if not _in_attention(name)]
        # What feeds the narrowing layer has its input's width.
        up = [layer for layer in layers if layer is not down and layer.out_features == down.in_features]
        if not up:
            raise ValueError(
                f"block {number} of {type(unwrapped(model)).__name__} has no feed-forward part that is linear layers which widen and one that narrows"
            )
        found.append((up, down))
    return found


def attention_outputs(model: nn.Module) -> list[nn.Linear]:
    """Of each attention of each block, the layer that ends it: a decoder that reads an encoder has two a block.

    Raises:
        ValueError: a block has no attention with such a layer.
    """
    hidden = config(model).hidden_size
    found: list[nn.Linear] = []
    for number, block in enumerate(blocks(model)):
        ends: dict[str, nn.Linear] = {}
        for name, layer in _linears(block).items():
            if _in_attention(name) and layer.out_features == hidden:
                ends[_attention_of(name)] = layer  # the last of each
        if not ends:
            raise ValueError(
                f"block {number} of {type(unwrapped(model)).__name__} has no attention that ends in a linear layer"
            )
        found += ends.values()
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

    @property
    def others(self) -> list[nn.Parameter]:
        """The parameters of the module that are in none of the four layers, as norms of each head."""
        own = {id(p) for layer in (self.query, self.key, self.value, self.output) for p in layer.parameters()}
        return [parameter for parameter in self.module.parameters() if id(parameter) not in own]

    def recount(self) -> None:
        """Tell the module how many heads it has, once its layers were cut."""
        told = {
            conventions.HEADS: self.heads,
            conventions.HEADS_WIDTH: self.heads * self.head_dim,
            conventions.KEY_VALUE_HEADS: self.key_value_heads,
            conventions.GROUPS: self.heads // self.key_value_heads,
        }
        for names, value in told.items():
            for name in vars(self.module).keys() & set(names):
                setattr(self.module, name, value)


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
            head_dim = next((getattr(module, name) for name in conventions.HEAD_WIDTH if hasattr(module, name)), None)
        if not isinstance(head_dim, int):
            raise ValueError(
                f"block {number} of {type(unwrapped(model)).__name__} has no attention that is a linear layer each for queries, keys, "
                "values and output"
            )
        query, key, value, output = (linears[roles[role]] for role in "qkvo")
        found.append(Attention(module, query, key, value, output, head_dim))
    return found


def queries_and_values(model: nn.Module) -> tuple[str, ...]:
    """The last parts of the names of the layers that make queries and values; of all inputs where these are one layer.

    Empty where no attention is known.
    """
    try:
        chosen = {id(layer) for part in attention(model) for layer in (part.query, part.value)}
    except ValueError:
        try:
            ends = {id(layer) for layer in attention_outputs(model)}
        except ValueError:
            return ()
        inside = {name: layer for block in blocks(model) for name, layer in _linears(block).items()}
        chosen = {id(layer) for name, layer in inside.items() if _in_attention(name) and id(layer) not in ends}
    names = {name.removesuffix(".base_layer") for name, module in model.named_modules() if id(module) in chosen}
    return tuple(sorted({name.rpartition(".")[2] for name in names}))


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
    return any(part in name.lower() for part in conventions.ATTENTION)


def _attention_of(name: str) -> str:
    """The name of the attention that the layer called `name` is in."""
    parts = name.split(".")
    return ".".join(parts[: 1 + next(place for place, part in enumerate(parts) if _in_attention(part))])


# -- what else the modules show


def dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Where probabilities of dropout are: the module, the attribute and its value.

    They are layers of torch's, or numbers that a module hands to functions.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p", module.p
        else:
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    yield module, name, value


def pools(name: str) -> bool:
    """Whether a parameter of this name is of what makes one vector of a text's."""
    return any(part.startswith(conventions.POOLER) for part in name.split("."))


def told(model: nn.Module, names: tuple[str, ...], value: int) -> list[str]:
    """Which keys `names` the model's configuration has, if they all tell this value."""
    return [name for name in names if getattr(unwrapped(model).config, name, None) == value]


# -- what was made new


def remember_new(model: nn.Module, names: Iterable[str]) -> None:
    """Note on `model` the parameters that no file held, which transformers drew at random."""
    unwrapped(model).newly_initialized = frozenset(names)


def new_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of `model` that were drawn at random for the task, as long as they are there: what every trainer trains.

    Beside a head these may be a pooler's, which the pretrained weights do not have. Names are those in :func:`unwrapped`.
    """
    noted: frozenset[str] = getattr(unwrapped(model), "newly_initialized", frozenset())
    return {name: parameter for name, parameter in unwrapped(model).named_parameters() if plain(name) in noted}


def modules_of(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The names of the outermost modules all of whose parameters are among `parameters`: PEFT's ``modules_to_save``."""
    chosen = {id(parameter) for parameter in parameters.values()}
    found: list[str] = []
    for name, module in model.named_modules():
        own = [id(parameter) for parameter in module.parameters()]
        if own and chosen.issuperset(own) and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


# -- configurations


def told_by_config(model: nn.Module) -> bool:
    """Whether a model made from the configuration has the same layers, of the same sizes."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    config: Any = model.config
    try:
        config.validate()  # as transformers does when it writes or reads one
        with torch.device("meta"):
            again = type(model)(config)
    except (ValueError, StrictDataclassError):  # a hidden size that the number of heads does not divide, say
        return False
    return _sizes(again) == _sizes(model)


def _sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "in_features"):
            found[name] = (module.in_features, module.out_features)
        elif hasattr(module, "embedding_dim"):
            found[name] = (module.num_embeddings, module.embedding_dim)
    return found
