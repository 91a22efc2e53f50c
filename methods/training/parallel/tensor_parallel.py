"""Tensor parallel training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.errors import Refusal
from bench.recipe.method import Modifier, Trainer
from bench.stage.evidence import Claim, difference, digest, is_part, whole
from methods import _peft
from methods._models import known
from methods.training.parallel._shared import divided_training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_LOGITS = 1e-4
"""How far logits may be apart that are the same sums in another order."""


@dataclass(frozen=True)
class TensorParallel(Modifier):
    """Divide each block's attention heads and feed-forward width among `n` processes, which all see the whole batch.

    Query, key and value and the layers that widen are cut by their outputs, the attention's output layer and the one
    that narrows by their inputs; so a block adds up its activations over the processes twice in the forward pass, and
    their gradients twice in the backward pass. Embeddings, norms, the biases of what is added up and the head are whole
    in each process. Of LoRA beside a layer, the factor on the side of the cut is divided with it and the other is whole:
    A's gradient is added up where outputs are cut, and A's output where inputs are. Every process draws the same
    dropout, so that the heads of one drop what those of another do, and so do the inputs of LoRA where they are cut. The
    sums are those of torch's DTensor, the weights plain tensors, which ``data_parallel`` goes with, and
    ``fully_sharded``, which divides each part further:
    https://docs.pytorch.org/docs/stable/distributed.tensor.html
    """

    name = "tensor_parallel"
    paper = "https://arxiv.org/abs/1909.08053"
    example = "full + tensor_parallel(2)"
    refuses = (
        (
            "quantized",
            "packed weights cannot be divided by rows and columns; train replicas of the model with data_parallel",
        ),
        ("factored", "layers that are products of two cannot be divided; use data_parallel"),
    )
    axis = "tensors"
    order = 70  # before replicas are made of what is left of the model

    n: Annotated[int, Ge(1)]

    @property
    def processes(self) -> int:
        """One for each part."""
        return self.n

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It divides layers at whole heads."""
        yield from known(context, "parts_of_blocks")
        if "reshaped" in context.facts or any(_replaces(stage.main) for stage in context.before):
            return  # the sizes are known when the model is there
        sizes = {
            "attention heads": context.config.get("num_attention_heads"),
            "heads of keys and values": context.config.get("num_key_value_heads"),
            "features inside the feed-forward layers": context.config.get("intermediate_size"),
        }
        yield from _indivisible({what: size for what, size in sizes.items() if size}, self.n)

    def on_model(self, training: Training) -> None:
        """Cut the layers, and have the modules that hold them share their input."""
        from bench.models.architecture import attention
        from methods.training.parallel._shared import tensors

        for number, found in enumerate(attention(training.model)):
            sizes = {"attention heads": found.heads, "heads of keys and values": found.key_value_heads}
            for reason in _indivisible(sizes, self.n):
                raise Refusal(f"{self.name}: block {number}: {reason}")
        pairs = _pairs(training.model)
        for _, narrowing in pairs:
            for reason in _indivisible({f"inputs of a layer, {narrowing},": narrowing.in_features}, self.n):
                raise Refusal(f"{self.name}: {reason}")
        assert training.group.mesh is not None
        mesh = training.group.mesh["tensors"]
        adapted = _adapted(training.model)
        parents = {child: module for module in training.model.modules() for child in module.children()}
        handles = training.state[f"{self.name} hooks"] = []
        for widening, narrowing in pairs:
            for layer, dim in _cuts(widening, narrowing):
                tensors.divide(layer, mesh, dim)
                tensors.divide_beside(adapted[layer], mesh, dim)
            holder = parents[adapted[widening[0]]]
            handles.append(holder.register_forward_pre_hook(tensors.Sharing(mesh), with_kwargs=True))

    def on_start(self, training: Training) -> None:
        """Keep what the divided model answers before it learns, for it must be what the whole one answered."""
        training.state[f"{self.name} start"] = training.probe_logits()

    def on_end(self, training: Training) -> None:
        """Gather the weights, and make plain layers of the divided ones."""
        from methods.training.parallel._shared import tensors

        for handle in training.state.get(f"{self.name} hooks", []):
            handle.remove()
        tensors.join(training.model)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Each process holds its part of the layers, sees all items, exchanges activations, and agrees on the rest."""

        yield divided_training.alive(work, "tensors")
        found = {name: tuple(parameter.shape) for name, parameter in _parameters(work.model).items()}
        # Of what else was put on, as bottlenecks, who did so says what it has.
        whole = found | _shapes(before, work.model)
        wanted = {name: whole[name] for name in found}
        names = {parameter: name for name, parameter in _parameters(work.model).items()}
        divided = _divided(work.model)
        for parameter, dim in divided:
            name = names[parameter]
            wanted[name] = tuple(size // self.n if at == dim else size for at, size in enumerate(wanted[name]))
        right = sum(found[name] == shape for name, shape in wanted.items())
        parts = {parameter for parameter in names if is_part(parameter)}
        yield Claim(
            f"{len(divided)} tensors are divided into {self.n}, all others are whole",
            parts == {parameter for parameter, _ in divided} != set() and right == len(wanted),
            f"{right} of {len(wanted)} have the shape of the formula, {len(parts)} are parts",
        )
        error = difference(work.state.get(f"{self.name} start"), before.logits)
        yield Claim(
            "divided, the model began with the answers that it came with",
            error < _LOGITS,
            f"relative difference of logits {error:.1e}",
        )
        yield from self._exchange(work)
        yield divided_training.drawing(work, "tensors", alike=True)
        divided_training.remember(work, self.name, self._gradient(work))
        kept = [digest(parameter) for parameter in names if parameter not in parts]
        gathered = work.group.all_gather(kept, "tensors")
        same = sum(len(set(each)) == 1 for each in zip(*gathered, strict=True))
        yield Claim(
            "all agree bit for bit on what is whole", same == len(kept) > 0, f"{same} of {len(kept)} tensors do"
        )
        work.state[f"{self.name} end"] = whole, work.after.logits

    def _gradient(self, work: Training) -> torch.Tensor:
        """The probe batch's gradient as one vector, of what is divided the parts of all processes together."""
        import torch
        import torch.distributed as dist

        from bench.models.modes import evaluating

        dims = dict(_divided(work.model))
        group = work.group.processes("tensors")
        work.optimizer.zero_grad(set_to_none=True)
        with evaluating(work.model):  # dropout would draw differently
            work.gradients(work.probe, 1.0)
        found = []
        for parameter in work.parameters:
            if parameter.grad is None:
                continue
            own = whole(parameter.grad).float().contiguous()
            if parameter in dims:
                parts = [torch.empty_like(own) for _ in range(group.size())]
                dist.all_gather(parts, own, group=group)
                own = torch.cat(parts, dims[parameter])
            found.append(own.flatten())
        work.optimizer.zero_grad(set_to_none=True)
        return torch.cat(found)

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

        def used(module: Any, args: object, output: torch.Tensor) -> None:
            weight = size(module.weight)
            output.register_hook(lambda gradient: backward.append(weight))

        def left(module: nn.Module, args: object, output: torch.Tensor) -> None:
            forward.append(size(output))

        hooks = [
            work.model.register_forward_pre_hook(
                lambda module, args, inputs: seen.extend(inputs["input_ids"].tolist()), with_kwargs=True
            )
        ]
        adapted = _adapted(work.model)
        lora = 0
        for widening, narrowing in _pairs(work.model):
            hooks += [widening[0].register_forward_pre_hook(came), narrowing.register_forward_hook(left)]
            for layer, dim in _cuts(widening, narrowing):
                for first in getattr(adapted[layer], "lora_A", {}).values():
                    hooks.append(first.register_forward_hook(left if dim else used))
                    lora += 1
        with Wire(work.group.processes("tensors")) as wire:
            work.gradients(work.probe, 1.0)
        for hook in hooks:
            hook.remove()
        work.optimizer.zero_grad(set_to_none=True)
        gathered = work.group.all_gather(seen, "tensors")
        yield Claim(
            "all processes work on the same items",
            bool(seen) and all(rows == seen for rows in gathered),
            f"{', '.join(str(len(rows)) for rows in gathered)} items",
        )
        calls = sum(wire.calls.values())
        found = sum(size * count for (what, _, size), count in wire.calls.items() if what == "all_reduce")
        expected = sum(forward) + sum(backward)
        if self.n == 1:
            yield Claim(
                "what one process would add up with others is sent nowhere",
                expected > 0 == calls,
                f"{calls} all-reduces for {expected:,} bytes",
            )
            return
        yield Claim(
            "a step adds up each block's activations twice forward, and twice backward where a gradient goes through"
            + bool(lora) * f", and the gradients or the outputs of {lora} of LoRA's layers",
            found == expected > 0 and calls == len(forward) + len(backward),
            f"{found:,} of {expected:,} bytes in {calls} all-reduces, {len(forward)} forward and {len(backward)} backward",
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is a plain one, the same everywhere, and answers as the divided one did."""
        shapes, logits = work.state.get(f"{self.name} end", ({}, None))
        parameters = _parameters(work.model)
        whole = [name for name, parameter in parameters.items() if tuple(parameter.shape) == shapes.get(name)]
        modules = list(work.model.modules())
        things = [*modules, *(hook for module in modules for hook in module._forward_pre_hooks.values())]
        left = sum(type(thing).__module__ == "methods.training.parallel._shared.tensors" for thing in things)
        yield Claim(
            "the model is whole again",
            len(whole) == len(parameters) and not left,
            f"{len(whole)} of {len(parameters)} weights are, {left} layers and hooks are left",
        )
        gathered = work.group.all_gather([digest(parameter) for parameter in parameters.values()])
        yield Claim(
            "all processes gathered the same weights", len(set(map(tuple, gathered))) == 1, f"{len(gathered)} processes"
        )
        error = difference(work.probe_logits(), logits)
        yield Claim("it answers as the divided one did", error < _LOGITS, f"relative difference of logits {error:.1e}")
        yield divided_training.same_weights(work)
        yield from divided_training.whole_gradient(work, self.name)


def _replaces(method: Any) -> bool:
    return isinstance(method, Trainer) and method.replaces_model


def _indivisible(sizes: dict[str, int], n: int) -> Iterator[str]:
    for what, size in sizes.items():
        if size % n:
            common = math.gcd(*sizes.values())
            mend = f"take an n that divides {common}" if common > 1 else "use data_parallel"
            yield f"{size} {what} cannot be divided among {n} processes; {mend}"


def _pairs(model: nn.Module) -> list[tuple[list[nn.Linear], nn.Linear]]:
    """Of each block's attention and feed-forward: the layers cut by outputs, and the one behind them by inputs."""
    from bench.models.architecture import attention, feed_forward

    heads = [([found.query, found.key, found.value], found.output) for found in attention(model)]
    return [*heads, *feed_forward(model)]


def _adapted(model: nn.Module) -> dict[nn.Module, Any]:
    """Of each layer, what stands in its place: itself, or an adapter's layer around it."""
    modules = list(model.modules())
    around: dict[nn.Module, Any] = {module.base_layer: module for module in modules if hasattr(module, "base_layer")}  # type: ignore[misc]
    return {module: module for module in modules} | around


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By plain names, PEFT's stale copies of trained modules left out."""
    named = model.named_parameters()
    return {plain(name): parameter for name, parameter in named if ".original_module." not in name}


def _shapes(before: Snapshot, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Those that the weights had, and those that LoRA and (IA)³ have beside them by their formulas."""
    shapes = dict(before.shapes)
    for name, layer in _peft.layers(model, "lora_A").items():
        (high, wide), r = before.shapes[f"{name}.weight"], layer.r["default"]
        shapes |= {f"{name}.lora_A.default.weight": (r, wide), f"{name}.lora_B.default.weight": (high, r)}
    for name, layer in _peft.layers(model, "ia3_l").items():
        high, wide = before.shapes[f"{name}.weight"]
        shapes[f"{name}.ia3_l.default"] = (1, wide) if layer.is_feedforward else (high, 1)
    return shapes


def _cuts(widening: list[nn.Linear], narrowing: nn.Linear) -> list[tuple[nn.Linear, int]]:
    """The layers, each with the dimension along which its weight is cut."""
    return [*((layer, 0) for layer in widening), (narrowing, 1)]


def _divided(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """The tensors to be cut, each with the dimension along which."""
    found: list[tuple[Any, int]] = []
    adapted = _adapted(model)
    for layer, dim in (cut for pair in _pairs(model) for cut in _cuts(*pair)):
        found += [(parameter, dim) for parameter in layer.parameters() if parameter.dim() > dim]
        found += [(part.weight, dim) for part in getattr(adapted[layer], ("lora_B", "lora_A")[dim], {}).values()]
        found += [(factors, dim) for factors in getattr(adapted[layer], "ia3_l", {}).values()]
    return found
