"""Activation checkpointing."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.plan.context import PlanContext
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim
from methods import _gradients
from methods._models import known

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class GradientCheckpointing(Modifier):
    """Keep only each block's input for the backward pass, and compute the block again there: less memory, more time.

    Where no gradient goes through the blocks, as when a head trains alone, nothing is computed again and nothing is
    gained. Built on transformers' ``activation_checkpointing_enable`` with torch's non-reentrant
    ``checkpoint``, for every block. Documentation: https://docs.pytorch.org/docs/stable/checkpoint.html
    """

    name = "gradient_checkpointing"
    paper = "https://arxiv.org/abs/1604.06174"
    example = "full + gradient_checkpointing"
    refuses_beside = (
        (
            "key_value_cache",
            "prefixes reach the blocks through the key-value cache, which checkpointed blocks do without; "
            "leave {name} out, or use lora",
        ),
    )
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The blocks must be known, and transformers must have it for the model."""
        yield from known(context, "blocks")
        if not context.structure.checkpoints and context.structure.stacks:
            yield f"transformers has no gradient checkpointing for a {context.model} model; leave it out, and save memory with accumulate"

    def on_model(self, training: Training) -> None:
        """Turn it on."""
        from bench.models.architecture import unwrapped

        model = unwrapped(training.model)
        # The name of old transformers, and the one that it has from 5.23 on.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        # Only reentrant checkpoints need inputs with gradients; here they would draw all frozen blocks into backward.
        model.disable_input_require_grads()

    def on_end(self, training: Training) -> None:
        """Turn it off."""
        from bench.models.architecture import unwrapped

        model = unwrapped(training.model)
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The backward pass runs forward again through each block that it goes through, to the same gradient."""
        import torch

        from bench.models.architecture import blocks

        ran: Counter[int] = Counter()
        through: set[int] = set()
        hooks = []
        for number, block in enumerate(blocks(work.model)):
            # A layer inside: hooks on the block itself stay outside of what is computed again.
            inside = next(m for m in block.modules() if not list(m.children()) and list(m.parameters()))
            hooks.append(inside.register_forward_pre_hook(lambda module, args, n=number: ran.update([n])))
            hooks.append(block.register_forward_hook(lambda module, args, out, n=number: _note(out, n, through)))
        with torch.random.fork_rng():
            torch.manual_seed(work.seed)
            loss = work.loss(work.probe)
            forward = Counter(ran)
            loss.backward()
        for hook in hooks:
            hook.remove()
        checkpointed = _gradients.taken(work)
        again = {number for number in ran if ran[number] == 2 * forward[number]}
        flags = [getattr(block, "gradient_checkpointing", False) for block in blocks(work.model)]
        needed = _needed(work)
        yield Claim(
            "the backward pass computes again each block that it goes through, and goes through no others than it must",
            all(flags) and again == through and (needed is None or through == needed),
            f"{len(again)} of {len(through)} computed again, {sum(flags)} of {len(flags)} blocks marked",
        )
        with _off(work.model), torch.random.fork_rng():
            torch.manual_seed(work.seed)  # dropout drops the same
            work.loss(work.probe).backward()
        plain = _gradients.taken(work)
        error = float(torch.linalg.vector_norm(checkpointed - plain) / torch.linalg.vector_norm(plain))
        limit = 1e-5 if work.compute_dtype == torch.float32 else 1e-2
        yield Claim(
            "the gradient is that of no checkpoints",
            error <= limit,
            f"relative difference {error:.1e}, at most {limit:g}",
        )

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """No module is checkpointed."""
        left = list(_marked(work.model))
        yield Claim("no checkpoint is left", not left, f"{len(left)} modules have one")


def _needed(work: Training) -> set[int] | None:
    """The blocks from the first one on that trains, or all of them where something before the blocks does.

    None where what trains is in no such order, as a prompt's vectors are.
    """
    from bench.models.architecture import blocks, body

    if any("prompt_encoder" in name for name, _ in work.model.named_parameters()):
        return None
    found = list(blocks(work.model))
    in_blocks = {id(parameter) for block in found for parameter in block.parameters()}
    named = list(body(work.model).parameters())
    first = next(place for place, parameter in enumerate(named) if id(parameter) in in_blocks)
    if any(parameter.requires_grad for parameter in named[:first]):
        return set(range(len(found)))
    trains = [number for number, block in enumerate(found) if any(p.requires_grad for p in block.parameters())]
    return set(range(min(trains, default=len(found)), len(found)))


def _note(output: Any, number: int, through: set[int]) -> None:
    if (output if hasattr(output, "requires_grad") else output[0]).requires_grad:
        through.add(number)


def _marked(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    return (module for module in model.modules() if getattr(module, "gradient_checkpointing", False))


@contextlib.contextmanager
def _off(model: torch.nn.Module) -> Iterator[None]:
    marked: list[Any] = list(_marked(model))
    for module in marked:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in marked:
            module.gradient_checkpointing = True
