"""What a pass of a model's code shows that its modules do not. It is run on torch's "meta" device: shapes and no numbers.

Each function raises a ValueError that says what was not found; so does each for a model whose code cannot run there.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.models import architecture

_TOKENS = 31
"""Of the text: code that is wrong about the number of heads must not find that it divides this."""


class _AllSo(TorchDispatchMode):
    """Answers yes where code asks about numbers that are not there: whether all tokens are real, all of one text, and so on."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype is torch.bool:
            return True
        return function(*args, **(kwargs or {}))


def forward(model: nn.Module, **options: Any) -> Any:
    """The outputs of the body for one text.

    Raises:
        ValueError: its code cannot run on "meta".
    """
    try:
        with _AllSo():  # type: ignore[no-untyped-call]
            return architecture.body(model)(
                input_ids=torch.zeros(1, _TOKENS, dtype=torch.long, device="meta"), **options
            )
    except Exception as error:  # whatever a model's code does where there are no numbers, or other shapes than it wants
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"its code does not run on the meta device ({said})") from error


@contextlib.contextmanager
def _few_blocks(model: nn.Module) -> Iterator[None]:
    """Leave in each list of blocks the first two, and those that are built otherwise, while it lasts: so passes are short."""
    there = [(layers, list(layers)) for layers in architecture.stacks(model)]
    for layers, blocks in there:
        built = [(type(block), [(n, p.shape) for n, p in block.named_parameters()]) for block in blocks]
        del layers[:]
        layers.extend(block for n, block in enumerate(blocks) if n < 2 or built[n] not in built[:n])
    try:
        yield
    finally:
        for layers, blocks in there:
            del layers[:]
            layers.extend(blocks)


def cache_heads(model: nn.Module) -> int | None:
    """The heads whose keys and values the first block keeps; None where that does not show."""
    try:
        with torch.no_grad(), _few_blocks(model):
            outputs = forward(model, use_cache=True)
        cache: Any = getattr(outputs, "cache", None) or getattr(outputs, "past_key_values", None)
        return int(cache.layers[0].keys.shape[1])
    except (ValueError, AttributeError, TypeError, IndexError):
        return None


# -- blocks in a row


class HandsOn(nn.Module):
    """Stands in for a module that is given hidden states and gives hidden states: gives what it is given."""

    def forward(self, hidden: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        """The hidden states as they are."""
        return hidden


class Receives(nn.Module):
    """Stands in for the embeddings: gives hidden states that were computed before."""

    hidden: torch.Tensor

    def forward(self, *args: Any, **named: Any) -> torch.Tensor:
        """What came."""
        return self.hidden


@contextlib.contextmanager
def standing_in(places: list[tuple[nn.Module, str, nn.Module]]) -> Iterator[None]:
    """Put in each parent's place of this name another module while it lasts."""
    there = [(parent, name, parent._modules[name]) for parent, name, _ in places]
    for parent, name, other in places:
        parent._modules[name] = other
    try:
        yield
    finally:
        for parent, name, module in there:
            parent._modules[name] = module


def row(model: nn.Module) -> None:
    """Whether the model is embeddings, blocks and a head that each take the hidden states of the one before and no more.

    So others can stand in the places of some of them.

    Raises:
        ValueError: it is not.
    """
    layers, body = architecture.stack(model), architecture.body(model)
    before, after = architecture.around(model)
    children = [layers, *(body.get_submodule(name) for name in (*before, *after))]
    known = {id(parameter) for module in children for parameter in module.parameters()}
    for name, parameter in body.named_parameters():
        if id(parameter) not in known:
            raise ValueError(f"{name} is neither before, nor in, nor after its blocks")
    if not before:
        raise ValueError("there is nothing with weights before its blocks")
    stands_in = Receives()
    stands_in.hidden = torch.empty(1, _TOKENS, architecture.config(model).hidden_size, device="meta")
    training = body.training
    try:
        body.train()  # what drops out between the blocks shows then alone
        with _few_blocks(model):
            places: list[tuple[nn.Module, str, nn.Module]] = [
                (body, before[0], stands_in),
                *((body, name, HandsOn()) for name in (*before[1:], *after)),
                *((layers, str(number), HandsOn()) for number in range(len(layers))),
            ]
            with standing_in(places):
                try:
                    outputs = forward(model)
                except ValueError as error:
                    raise ValueError(f"with others in their places {error}") from error
        if outputs.last_hidden_state is not stands_in.hidden:
            raise ValueError("its code computes something on the hidden states between embeddings, blocks and head")
    finally:
        body.train(training)
    _hidden_alone(model)


def _hidden_alone(model: nn.Module) -> None:
    """Whether hidden states are all that is computed from weights and given to blocks: a gradient goes through nothing else.

    Raises:
        ValueError: they are not.
    """
    found: list[bool] = []

    def given(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = args[0] if args else named.get("hidden_states")
        tensors = torch.utils._pytree.tree_leaves((args, named))
        found.append(any(isinstance(t, torch.Tensor) and t.requires_grad and t is not hidden for t in tensors))

    hooks = [layer.register_forward_pre_hook(given, with_kwargs=True) for layer in architecture.blocks(model)]
    try:
        with torch.enable_grad(), _few_blocks(model):
            forward(model)
    finally:
        for hook in hooks:
            hook.remove()
    if any(found):
        raise ValueError("its blocks are given more that is computed from weights than the hidden states")


# -- blocks of another size


def fewer_heads(model: nn.Module) -> None:
    """Whether the attention works with half of its heads, once it is told their number.

    Raises:
        ValueError: it does not.
    """
    _halved(model, tell=True)


def fewer_channels(model: nn.Module) -> None:
    """Whether it can be told which weights are along the hidden states, so that these can be narrower.

    Raises:
        ValueError: it cannot.
    """
    architecture.feed_forward(model)
    hidden = architecture.config(model).hidden_size
    if any(hidden in parameter.shape for found in architecture.attention(model) for parameter in found.others):
        raise ValueError("its attention has weights beside its layers that are as wide as the hidden states")
    _hidden_alone(model)


def parts_of_blocks(model: nn.Module) -> None:
    """Whether attention and feed-forward part work with half of their heads and inner features, and all they hold are layers.

    Raises:
        ValueError: they do not, or hold weights that belong to all heads.
    """
    for found in architecture.attention(model):
        if found.others:
            raise ValueError("its attention has weights beside the layers of queries, keys, values and output")
    for up, down in architecture.feed_forward(model):
        if down.in_features % 2:
            raise ValueError(f"its feed-forward part is {down.in_features} wide, an odd number")
        if any(layer.out_features != down.in_features for layer in up):
            raise ValueError("its feed-forward layers are of several widths")
    _halved(model, tell=False)


def _halved(model: nn.Module, *, tell: bool) -> None:
    architecture.attention(model)
    with _few_blocks(model):
        model = copy.deepcopy(model)
    forward(model)  # whole, so that what is raised below is due to the cut
    for found in architecture.attention(model):
        shared, each = found.key_value_heads, found.heads // found.key_value_heads
        shared, each = ((shared + 1) // 2, each) if shared > 1 else (shared, (each + 1) // 2)
        for layer in (found.key, found.value):
            _resize(layer, outputs=shared * found.head_dim)
        _resize(found.query, outputs=shared * each * found.head_dim)
        _resize(found.output, inputs=shared * each * found.head_dim)
        if tell:
            found.recount()
    if not tell:
        for up, down in architecture.feed_forward(model):
            for layer in up:
                _resize(layer, outputs=down.in_features // 2)
            _resize(down, inputs=down.in_features // 2)
    try:
        with torch.no_grad():
            forward(model)
    except ValueError as error:
        what = "half of the heads" if tell else "half of the heads and of the inner features"
        raise ValueError(f"with {what} {error}") from error


def _resize(layer: nn.Linear, *, outputs: int | None = None, inputs: int | None = None) -> None:
    layer.out_features, layer.in_features = outputs or layer.out_features, inputs or layer.in_features
    layer.weight = nn.Parameter(layer.weight.new_empty(layer.out_features, layer.in_features))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(layer.out_features))
