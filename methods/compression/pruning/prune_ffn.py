"""Structured pruning of feed-forward layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from bench.plan.context import PlanContext
from bench.stage.evidence import Claim
from methods import _structured
from methods._models import known

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class PruneFFN(_structured.Structured):
    """Take out feed-forward neurons: the intermediate size of every block really shrinks, and so does its time.

    A neuron's ``importance`` is taken over all weights that come into it and go out of it: "l2" is the norm of these,
    "taylor" the sum of |weight · gradient| over 128 training items (https://arxiv.org/abs/1906.10771), "random"
    draws it. Built on torch-pruning, which finds those weights by tracing: https://github.com/VainF/Torch-Pruning
    """

    name = "prune_ffn"
    paper = "https://arxiv.org/abs/2301.12900"
    example = "full >> prune_ffn(0.5) >> full(share=0.3)"
    needs = ("torch_pruning",)
    adds = frozenset({"reshaped"})

    amount: Annotated[float, Gt(0), Lt(1)]
    importance: _structured.Importance = "l2"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The part that is cut must be known."""
        yield from known(context, "feed_forward")

    def apply(self, work: Work) -> None:
        """Trace, rank, cut; the configuration follows where it tells one width for all blocks."""
        from bench.models.architecture import feed_forward, unwrapped

        _structured.put_aside(work, self.name)
        told = _told(work.model)
        with _structured.graph(work) as graph:
            rank = _structured.ranking(work, self.importance)
            for up, _ in feed_forward(work.model):
                _structured.cut(graph, up[0], rank, self.amount)
        for name in told:
            setattr(unwrapped(work.model).config, name, up[0].out_features)

    def save(self, model: nn.Module, folder: Path) -> bool:
        """The configuration tells the size, unless another method reshaped the model too."""
        return _structured.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every feed-forward layer has the smaller shape, nothing else changed, and whole neurons are left."""
        from bench.models.architecture import feed_forward, unwrapped

        names = _structured.names_of(work.model)
        groups = [
            [
                *(member for layer in up for member in _structured.linear(names, layer, outputs=True)),
                *_structured.linear(names, down, outputs=False),
            ]
            for up, down in feed_forward(work.model)
        ]
        yield from _structured.claims(before, work, self.name, groups, self.amount)
        yield _structured.ranked(before, work, self.name, [(group, group) for group in groups], self.importance)
        widths = {down.in_features for _, down in feed_forward(work.model)}
        for name in _told(work.state.get(self.name, work.model)):
            told = getattr(unwrapped(work.model).config, name)
            yield Claim("the configuration tells the width", widths == {told}, f"{sorted(widths)}, it says {told}")


def _told(model: nn.Module) -> list[str]:
    """The keys by which the configuration tells how wide the feed-forward layers are."""
    from bench.models import conventions
    from bench.models.architecture import feed_forward, told

    return told(model, conventions.INNER_WIDTH, feed_forward(model)[-1][1].in_features)
