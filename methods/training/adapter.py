"""Bottleneck adapters inside the blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from bench.evidence import Claim, plain
from bench.method import Place, Trainer, Width
from methods import _added, _peft
from methods._models import known

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


@dataclass(frozen=True)
class Adapter(Trainer):
    """Train small bottleneck layers put between the frozen ones.

    ``houlsby`` puts one behind attention and one behind the feed-forward layers of each block, before the residual is
    added, and trains the normalizations too, as its paper does. ``pfeiffer`` (https://arxiv.org/abs/2005.00247) has the
    second alone, with ReLU for GELU, and leaves the normalizations as they are. A new head trains with both. Adapters
    start as the identity, exactly. The size is that of Houlsby et al.'s code; they try rates from 3e-5 to 3e-3, and
    short budgets want the upper end. What is shipped is the adapter and what trained with it, without its base;
    ``methods._adapter.load`` puts them back on the pretrained model that its ``adapter_config.json`` names.
    """

    name = "adapter"
    paper = "https://arxiv.org/abs/1902.00751"
    example = "adapter(size=64)"
    across = frozenset({"layers", "replicas", "shards", "tensors"})
    gives = frozenset({"adapter"})

    size: Width = 64
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    lr: Annotated[float, Gt(0)] = 3e-3
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, place: Place) -> Iterator[str]:
        """One adapter at a time, on a model that gradients can flow through."""
        yield from _peft.problems(place)
        yield from known(place, "feed_forward_outputs", *(["attention_outputs"] if self.placement == "houlsby" else []))
        if "factored" in place.facts:
            yield "an adapter goes behind one linear layer, and here each is two; put adapters on first"

    def on_model(self, training: Training) -> None:
        """Put them in, and unfreeze them and what trains with them."""
        from methods import _adapter

        _adapter.insert(training.model, self.size, self.placement)
        for module in _adapter.bottlenecks(training.model):
            module.requires_grad_(True)
        for parameter in (self._norms(training.model) | _added.new_weights(training.model)).values():
            parameter.requires_grad_(True)
        _added.remember(training)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The base is bit-identical, the adapters are as many and as large as the formula says, and each does something."""
        from bench.architecture import config, stacks
        from methods import _adapter

        yield from _added.claims(before, work, ".adapter.", {plain(name) for name in self._norms(work.model)})
        adapters = _adapter.bottlenecks(work.model)
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
        changes: dict[Any, bool] = {}
        hooks = [
            a.register_forward_hook(lambda module, args, out: _note(changes, module, args[0], out)) for a in adapters
        ]
        work.probe_logits()
        for hook in hooks:
            hook.remove()
        active = sum(changes.values())
        yield Claim("each adapter changes what goes through it", active == expected, f"{active} of {expected}")

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """The adapters, and what trained with them."""
        from methods import _adapter

        if not _adapter.bottlenecks(model):
            return False
        names = {name for name, _ in model.named_parameters() if ".adapter." in name}
        _adapter.save(
            model, folder, self.size, self.placement, names | {*_added.new_weights(model), *self._norms(model)}
        )
        return True

    def _norms(self, model: torch.nn.Module) -> dict[str, Any]:
        from methods import _adapter

        return _adapter.norms(model) if self.placement == "houlsby" else {}


def _note(changes: dict[Any, bool], module: Any, given: torch.Tensor, out: torch.Tensor) -> None:
    changes[module] = bool((out != given).any())
