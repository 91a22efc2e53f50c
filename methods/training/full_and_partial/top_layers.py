"""Training the last blocks alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _own_weights, _refusals
from methods._models import one_stack

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class TopLayers(Trainer):
    """Train the last `n` transformer blocks and all that comes after them: final norm, pooler and head.

    The backward pass ends at the first of them, so that memory and time fall with `n`. Lee et al. find that a fourth of
    the blocks gives nine tenths of the quality. The rate is that of ``full``.
    """

    name = "top_layers"
    paper = "https://arxiv.org/abs/1911.03090"
    example = "top_layers(2)"
    refuses = (
        ("adapter", _refusals.ADAPTER_ON_MODEL),
        ("inference_only", _refusals.INFERENCE_ONLY),
        ("quantized", "it trains weights, and the weights are quantized here; put an adapter on them, as in `>> lora`"),
    )
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})

    n: Annotated[int, Ge(1)]
    lr: Annotated[float, Gt(0)] = 2e-4
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The blocks must be there."""
        yield from one_stack(context)
        blocks = context.blocks
        if blocks and self.n > blocks:
            yield f"the model has {blocks} blocks, not {self.n}; lower n"

    def on_model(self, training: Training) -> None:
        """Unfreeze them."""
        for parameter in _top(training.model, self.n).values():
            parameter.requires_grad_(True)

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Every weight matrix of the last blocks and after them moved, and every other tensor is bit-identical."""
        from torch import nn

        from bench.models.architecture import stack

        layers = stack(work.model)
        prefix = next(plain(name) for name, module in work.model.named_modules() if module is layers)
        of_block = [f"{prefix}.{number}." for number in range(len(layers))]
        chosen = tuple(of_block[len(of_block) - self.n :])
        ordered = _own_weights.names(work.model)
        last = max(place for place, name in enumerate(ordered) if name.startswith(of_block[-1]))
        embedded = {
            f"{plain(name)}.weight" for name, module in work.model.named_modules() if isinstance(module, nn.Embedding)
        }
        top = {name for name in ordered if name.startswith(chosen)} | {*ordered[last + 1 :]} - embedded
        yield from _own_weights.claims(before, work, top, f"the last {self.n} blocks and what comes after them")


def _top(model: nn.Module, n: int) -> dict[str, nn.Parameter]:
    from bench.models.architecture import after_blocks, stack

    found = stack(model)
    if n > len(found):
        raise ValueError(f"the model has {len(found)} blocks, not {n}")
    chosen = {id(parameter) for block in list(found)[-n:] for parameter in block.parameters()}
    inside = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
    return inside | after_blocks(model)
