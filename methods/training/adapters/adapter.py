"""Bottleneck adapters inside the blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Width
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _added, _peft
from methods._models import known

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class Adapter(Trainer):
    """Train small bottleneck layers put between the frozen ones.

    ``houlsby`` puts one behind attention and one behind the feed-forward layers of each block, before the residual is
    added, and trains the normalizations too, as its paper does. ``pfeiffer`` (https://arxiv.org/abs/2005.00247) has the
    second alone, with ReLU for GELU, and leaves the normalizations as they are. A new head trains with both. Adapters
    start as the identity, exactly. The size is that of Houlsby et al.'s code; they try rates from 3e-5 to 3e-3, and
    short budgets want the upper end. What is shipped is the adapter and what trained with it, without its base;
    ``methods.training.adapters._shared.bottleneck.load`` puts them back on the pretrained model that its ``adapter_config.json`` names.
    """

    name = "adapter"
    paper = "https://arxiv.org/abs/1902.00751"
    example = "adapter(size=64)"
    divisible_by = frozenset({"layers", "replicas", "shards", "tensors"})
    adds = frozenset({"adapter"})
    refuses = (
        *_peft.REFUSES,
        ("factored", "an adapter goes behind one linear layer, and here each is two; put adapters on first"),
    )

    size: Width = 64
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    lr: Annotated[float, Gt(0)] = 3e-3
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The layers that adapters go behind must be known."""
        yield from known(
            context, "feed_forward_outputs", *(["attention_outputs"] if self.placement == "houlsby" else [])
        )

    def on_model(self, training: Training) -> None:
        """Put them in, and unfreeze them and what trains with them."""
        from methods.training.adapters._shared import bottleneck

        bottleneck.insert(training.model, self.size, self.placement)
        for module in bottleneck.bottlenecks(training.model):
            module.requires_grad_(True)
        for parameter in (self._norms(training.model) | _added.new_weights(training.model)).values():
            parameter.requires_grad_(True)
        _added.remember(training)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, the adapters are as many and as large as the formula says, and each does something."""
        from bench.models.architecture import config, stacks
        from methods.training.adapters._shared import bottleneck

        norms = self._trained_norms(work.model)
        yield from _added.claims(before, work, ".adapter.", norms, every=True)
        if norms:
            trained = {plain(name) for name, parameter in work.model.named_parameters() if parameter.requires_grad}
            seen = len(norms & trained & before.changed(work.after))
            yield Claim("the normalizations train, and moved", seen == len(norms), f"{seen} of {len(norms)} tensors")
        yield _added.started(work, "adapters began as the identity: the way up was zero", ".adapter.up.", 0.0)
        adapters = bottleneck.bottlenecks(work.model)
        counts = [len(stack) for stack in stacks(work.model)]
        blocks = sum(counts)
        expected = blocks * (2 if self.placement == "houlsby" else 1)
        if self.placement == "houlsby" and len(counts) == 2:
            expected += counts[1]  # a decoder's blocks attend to the encoder too
        yield Claim(f"there are {expected} adapters", len(adapters) == expected, f"{len(adapters)} in {blocks} blocks")
        width = config(work.model).hidden_size
        counted = sum(parameter.numel() for adapter in adapters for parameter in adapter.parameters())
        formula = expected * (2 * self.size * width + width + self.size)
        yield Claim(
            "an adapter has 2·size·width + width + size weights",
            counted == formula,
            f"{counted:,} against {formula:,}",
        )
        yield from self._computed(work, adapters, expected)
        yield self._placed(work)

    def _computed(self, work: Training, adapters: list[Any], expected: int) -> Iterator[Claim]:
        """What goes through each adapter, and what the model goes on with, against the formula."""
        import torch
        from torch.nn import functional

        changed: set[Any] = set()
        right: set[Any] = set()
        gave: dict[Any, torch.Tensor] = {}

        def note(adapted: Any, args: tuple[Any, ...], out: torch.Tensor) -> None:
            adapter = adapted.adapter
            given = gave.get(adapted.base_layer)
            if given is None:
                return
            inside = functional.linear(given, adapter.down.weight, adapter.down.bias)
            inside = functional.gelu(inside) if self.placement == "houlsby" else inside.clamp(min=0)
            wanted = given + functional.linear(inside, adapter.up.weight, adapter.up.bias)
            # An approximation of GELU is off by 1e-4 of what is inside.
            error = (out - wanted).norm() / (wanted - given).norm().clamp(min=1e-12)
            rounding = torch.finfo(out.dtype).eps * float(wanted.norm() / (wanted - given).norm().clamp(min=1e-12))
            changed.update([adapter] if bool((out != given).any()) else [])
            right.update([adapter] if float(error) <= 1e-5 + 4 * rounding else [])

        hooks = []
        for module in work.model.modules():
            if getattr(module, "adapter", None) in adapters:
                adapted: Any = module
                hooks.append(adapted.base_layer.register_forward_hook(lambda m, args, out: gave.update({m: out})))
                hooks.append(adapted.register_forward_hook(note))
        work.probe_logits()
        for hook in hooks:
            hook.remove()
        yield Claim(
            "each adapter changes what goes through it", len(changed) == expected, f"{len(changed)} of {expected}"
        )
        drawn = torch.Generator().manual_seed(work.seed)
        points = 3 * torch.randn(256, generator=drawn)
        exact = points * 0.5 * (1 + (points / 2**0.5).erf()) if self.placement == "houlsby" else points.clamp(min=0)
        off = [adapter for adapter in adapters if not torch.allclose(adapter.activation(points), exact, atol=1e-6)]
        activation = "GELU" if self.placement == "houlsby" else "ReLU"
        yield Claim(
            f"behind its layer each gives the layer's output and, of {activation} between two layers, its own",
            len(right) == expected and not off,
            f"{len(right)} of {expected}, {len(off)} have another function between",
        )
        yield self._gradient(work, adapters)

    def _gradient(self, work: Training, adapters: list[Any]) -> Claim:
        """The gradient against that of the formula in each adapter's place."""
        import torch
        from torch.nn import functional

        from bench.models.modes import evaluating
        from methods import _gradients

        def formula(adapted: Any, *args: Any) -> torch.Tensor:
            given, adapter = adapted.base_layer(*args), adapted.adapter
            inside = functional.linear(given, adapter.down.weight, adapter.down.bias)
            inside = functional.gelu(inside) if self.placement == "houlsby" else inside.clamp(min=0)
            out: torch.Tensor = given + functional.linear(inside, adapter.up.weight, adapter.up.bias)
            return out

        around: list[Any] = [module for module in work.model.modules() if getattr(module, "adapter", None) in adapters]
        found = []
        with evaluating(work.model):
            for by_formula in (False, True):
                for module in around if by_formula else ():
                    module.forward = functools.partial(formula, module)
                work.loss(work.probe).backward()
                found.append(_gradients.taken(work))
        for module in around:
            del module.forward
        error = float((found[0] - found[1]).norm() / found[1].norm())
        limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
        return Claim(
            "gradients go back through them by the formula", error <= limit, f"relative difference {error:.1e}"
        )

    def _placed(self, work: Training) -> Claim:
        """In each block one is outside of attention, and for houlsby others are behind what ends one, by layers' names."""
        from bench.models.architecture import blocks

        wrong = 0
        for block in blocks(work.model):
            outside, attending, elsewhere = 0, 0, 0
            for name, module in block.named_modules():
                layer = getattr(module, "base_layer", None)
                if layer is None or not hasattr(module, "adapter"):
                    continue
                in_attention = any(word in name.lower() for word in ("attention", "attn"))
                # A layer that ends an attention is the one that makes no query, key or value.
                ends = in_attention and name.rpartition(".")[2][0] not in "qkv"
                outside += not in_attention
                attending += ends
                elsewhere += in_attention and not ends
            wrong += outside != 1 or (attending > 0) is not (self.placement == "houlsby") or elsewhere > 0
        where = "the feed-forward layers" + " and attention" * (self.placement == "houlsby")
        count = len(blocks(work.model))
        return Claim(f"each block has them behind {where}, and nowhere else", not wrong, f"{count - wrong} of {count}")

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """The adapters, and what trained with them."""
        from methods.training.adapters._shared import bottleneck

        if not bottleneck.bottlenecks(model):
            return False
        names = {name for name, _ in model.named_parameters() if ".adapter." in name}
        bottleneck.save(
            model, folder, self.size, self.placement, names | {*_added.new_weights(model), *self._norms(model)}
        )
        return True

    def _norms(self, model: torch.nn.Module) -> dict[str, Any]:
        from methods.training.adapters._shared import bottleneck

        return bottleneck.norms(model) if self.placement == "houlsby" else {}

    def _trained_norms(self, model: torch.nn.Module) -> set[str]:
        """The names of what normalizes, by the modules' classes: of all in the body, of which houlsby trains each."""
        from bench.models.architecture import body

        if self.placement != "houlsby":
            return set()
        own = {
            id(parameter)
            for module in body(model).modules()
            if "norm" in type(module).__name__.lower()
            for parameter in module.parameters(recurse=False)
        }
        return {plain(name) for name, parameter in model.named_parameters() if id(parameter) in own}
