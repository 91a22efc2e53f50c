"""Tensor parallel training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from bench.evidence import Claim, digest, plain
from bench.method import Modifier, Place, Trainer, Unfit
from methods import _parallel

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work

MODELS = ("bert", "electra", "llama", "mistral", "qwen2", "roberta")
"""transformers' model types that this is tested on. Others may have weights in between, as Qwen3's norms of heads."""

_LOGITS = 1e-4
"""How far logits may be apart that are the same sums in another order."""


@dataclass(frozen=True)
class TensorParallel(Modifier):
    """Divide each block's attention heads and feed-forward width among `n` processes, which all see the whole batch.

    Query, key and value and the layers that widen are cut by their outputs, the attention's output layer and the one
    that narrows by their inputs; so a block adds up its activations over the processes twice in the forward pass, and
    their gradients twice in the backward pass. Embeddings, norms, the biases of what is added up and the head are whole
    in each process. Every process draws the same dropout, so that the heads of one drop what those of another do. The
    sums are those of torch's DTensor, the weights plain tensors, which ``data_parallel`` goes with:
    https://docs.pytorch.org/docs/stable/distributed.tensor.html
    """

    name = "tensor_parallel"
    paper = "https://arxiv.org/abs/1909.08053"
    example = "full + tensor_parallel(2)"
    split = "tensors"
    order = 70  # before replicas are made of what is left of the model

    n: Annotated[int, Ge(2)]

    @property
    def processes(self) -> int:
        """One for each part."""
        return self.n

    def problems(self, place: Place) -> Iterator[str]:
        """It divides plain layers of known models, at whole heads."""
        if place.model not in MODELS:
            yield f"a model of type {place.model} may be built otherwise than those that it knows: {', '.join(MODELS)}"
        if "quantized" in place.facts:
            yield "packed weights cannot be divided by rows and columns; train replicas of the model with data_parallel"
        if "factored" in place.facts:
            yield "layers that are products of two cannot be divided; use data_parallel"
        if "reshaped" in place.facts or any(_replaces(stage.base) for stage in place.before):
            return  # the sizes are known when the model is there
        sizes = {
            "attention heads": place.config.get("num_attention_heads"),
            "heads of keys and values": place.config.get("num_key_value_heads"),
            "features inside the feed-forward layers": place.config.get("intermediate_size"),
        }
        yield from _indivisible({what: size for what, size in sizes.items() if size}, self.n)

    def on_model(self, training: Training) -> None:
        """Cut the layers, and have the modules that hold them share their input."""
        from bench.architecture import attention
        from methods import _tensors

        for number, found in enumerate(attention(training.model)):
            sizes = {"attention heads": found.heads, "heads of keys and values": found.key_value_heads}
            for reason in _indivisible(sizes, self.n):
                raise Unfit(f"{self.name}: block {number}: {reason}")
        pairs = _pairs(training.model)
        for _, narrowing in pairs:
            for reason in _indivisible({f"inputs of a layer, {narrowing},": narrowing.in_features}, self.n):
                raise Unfit(f"{self.name}: {reason}")
        assert training.group.mesh is not None
        mesh = training.group.mesh["tensors"]
        parents = {id(child): module for module in training.model.modules() for child in module.children()}
        handles = training.notes[f"{self.name} hooks"] = []
        for widening, narrowing in pairs:
            for layer in widening:
                _tensors.divide(layer, mesh, 0)
            _tensors.divide(narrowing, mesh, 1)
            holder = parents[id(widening[0])]
            handles.append(holder.register_forward_pre_hook(_tensors.Sharing(mesh), with_kwargs=True))

    def on_start(self, training: Training) -> None:
        """Keep what the divided model answers before it learns, for it must be what the whole one answered."""
        training.notes[f"{self.name} start"] = training.probe_logits()

    def on_end(self, training: Training) -> None:
        """Gather the weights, and make plain layers of the divided ones."""
        from methods import _tensors

        for handle in training.notes.get(f"{self.name} hooks", []):
            handle.remove()
        _tensors.join(training.model)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Each process holds its part of the layers, sees all items, exchanges activations, and agrees on the rest."""
        from bench.loop import Training

        assert isinstance(work, Training)
        yield _parallel.alive(work, "tensors")
        names = {id(parameter): plain(name) for name, parameter in work.model.named_parameters()}
        wanted = {name: before.shapes[name] for name in names.values()}
        divided = _divided(work.model)
        for parameter, dim in divided:
            name = names[id(parameter)]
            wanted[name] = tuple(size // self.n if at == dim else size for at, size in enumerate(wanted[name]))
        found = {names[id(parameter)]: tuple(parameter.shape) for parameter in work.model.parameters()}
        right = sum(found[name] == shape for name, shape in wanted.items())
        yield Claim(
            f"{len(divided)} tensors are divided into {self.n}, all others are whole",
            bool(divided) and right == len(wanted),
            f"{right} of {len(wanted)} have the shape of the formula",
        )
        error = _error(work.notes.get(f"{self.name} start"), before.logits)
        yield Claim(
            "divided, the model began with the answers that it came with",
            error < _LOGITS,
            f"relative difference of logits {error:.1e}",
        )
        yield from self._exchange(work)
        parts = {id(parameter) for parameter, _ in divided}
        kept = [digest(parameter) for parameter in work.model.parameters() if id(parameter) not in parts]
        everyone = work.group.everyone(kept, "tensors")
        same = sum(len(set(each)) == 1 for each in zip(*everyone, strict=True))
        yield Claim(
            "all agree bit for bit on what is whole", same == len(kept) > 0, f"{same} of {len(kept)} tensors do"
        )
        work.notes[f"{self.name} end"] = before.shapes, work.after.logits

    def _exchange(self, work: Training) -> Iterator[Claim]:
        """All see the same items, and a step adds up the activations of the formula."""
        from bench.measure.wire import Wire

        seen: list[list[int]] = []
        forward: list[int] = []
        backward: list[int] = []

        def size(tensor: torch.Tensor) -> int:
            return tensor.numel() * tensor.element_size()

        def came(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if args[0].requires_grad:
                args[0].register_hook(lambda gradient: backward.append(size(gradient)))

        def left(module: nn.Module, args: object, output: torch.Tensor) -> None:
            forward.append(size(output))

        hooks = [
            work.model.register_forward_pre_hook(
                lambda module, args, inputs: seen.extend(inputs["input_ids"].tolist()), with_kwargs=True
            )
        ]
        for widening, narrowing in _pairs(work.model):
            hooks += [widening[0].register_forward_pre_hook(came), narrowing.register_forward_hook(left)]
        with Wire(work.group.processes("tensors")) as wire:
            work.gradients(work.probe, 1.0)
        for hook in hooks:
            hook.remove()
        work.optimizer.zero_grad(set_to_none=True)
        everyone = work.group.everyone(seen, "tensors")
        yield Claim(
            "all processes work on the same items",
            bool(seen) and all(rows == seen for rows in everyone),
            f"{', '.join(str(len(rows)) for rows in everyone)} items",
        )
        calls = sum(wire.calls.values())
        found = sum(size * count for (what, _, size), count in wire.calls.items() if what == "all_reduce")
        expected = sum(forward) + sum(backward)
        yield Claim(
            "a step adds up each block's activations twice forward, and twice backward where a gradient goes through",
            found == expected > 0 and calls == len(forward) + len(backward),
            f"{found:,} of {expected:,} bytes in {calls} all-reduces, {len(forward)} forward and {len(backward)} backward",
        )

    def gone(self, work: Training) -> Iterator[Claim]:
        """The model is a plain one, the same everywhere, and answers as the divided one did."""
        shapes, logits = work.notes.get(f"{self.name} end", ({}, None))
        parameters = list(work.model.named_parameters())
        whole = [name for name, parameter in parameters if tuple(parameter.shape) == shapes.get(plain(name))]
        modules = list(work.model.modules())
        things = [*modules, *(hook for module in modules for hook in module._forward_pre_hooks.values())]
        left = sum(type(thing).__module__ == "methods._tensors" for thing in things)
        yield Claim(
            "the model is whole again",
            len(whole) == len(parameters) and not left,
            f"{len(whole)} of {len(parameters)} weights are, {left} layers and hooks are left",
        )
        everyone = work.group.everyone([digest(parameter) for _, parameter in parameters])
        yield Claim(
            "all processes gathered the same weights", len(set(map(tuple, everyone))) == 1, f"{len(everyone)} processes"
        )
        error = _error(work.probe_logits(), logits)
        yield Claim("it answers as the divided one did", error < _LOGITS, f"relative difference of logits {error:.1e}")


def _error(found: torch.Tensor | None, wanted: torch.Tensor | None) -> float:
    return math.inf if found is None or wanted is None else float((found - wanted).norm() / wanted.norm())


def _replaces(method: Any) -> bool:
    return isinstance(method, Trainer) and method.replaces


def _indivisible(sizes: dict[str, int], n: int) -> Iterator[str]:
    for what, size in sizes.items():
        if size % n:
            common = math.gcd(*sizes.values())
            mend = f"take an n that divides {common}" if common > 1 else "use data_parallel"
            yield f"{size} {what} cannot be divided among {n} processes; {mend}"


def _pairs(model: nn.Module) -> list[tuple[list[nn.Linear], nn.Linear]]:
    """Of each block's attention and feed-forward: the layers cut by outputs, and the one behind them by inputs."""
    from bench.architecture import attention, feed_forward

    heads = [([found.query, found.key, found.value], found.output) for found in attention(model)]
    return [*heads, *feed_forward(model)]


def _divided(model: nn.Module) -> list[tuple[torch.Tensor, int]]:
    """The tensors to be cut, each with the dimension along which."""
    found: list[tuple[torch.Tensor, int]] = []
    for widening, narrowing in _pairs(model):
        found += [(parameter, 0) for layer in widening for parameter in layer.parameters()]
        found.append((narrowing.weight, 1))
    return found
