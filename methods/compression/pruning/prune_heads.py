"""Structured pruning of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from annotated_types import Gt, Lt

from bench.plan.context import PlanContext
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _statistics, _structured
from methods._models import known

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.models.architecture import Attention
    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class PruneHeads(_structured.Structured):
    """Take out attention heads: the query, key, value and output layers of every block really shrink.

    Where groups of query heads share keys and values, a group goes as a whole; where all share one, query heads go. A
    head's ``importance`` is taken over all its weights: "l2" is the norm of these, "taylor" the sum of
    |weight · gradient| over 128 training items (https://arxiv.org/abs/1906.10771), "random" draws it. What BERT's
    configuration cannot tell, heads that together are narrower than the hidden size, is saved as a pickled model. Cut by
    torch-pruning's functions for linear layers: https://github.com/VainF/Torch-Pruning
    """

    name = "prune_heads"
    paper = "https://arxiv.org/abs/1905.10650"
    example = "full >> prune_heads(0.5) >> full(share=0.3)"
    needs = ("torch_pruning",)
    adds = frozenset({"reshaped", "uneven"})

    amount: Annotated[float, Gt(0), Lt(1)]
    importance: _structured.Importance = "l2"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """One head has to stay."""
        yield from known(context, "fewer_heads")
        heads = context.config.get("num_attention_heads") or 0
        shared = context.config.get("num_key_value_heads") or heads
        for stage in context.before:
            if isinstance(stage.main, Trainer) and "reshaped" in stage.main.removes:
                return  # its configuration is not known before it is there
            if isinstance(stage.main, PruneHeads) and heads > 1:
                heads, shared = stage.main._left(heads, shared)
        if heads == 1:
            yield "the model has one attention head here, and that has to stay; leave this out"
        units, what = (shared, "groups of heads") if shared > 1 else (heads, "heads")
        if units > 1 and not round(units * self.amount):
            yield (
                f"{self.amount:g} of {units} {what} is less than one half of one; the least that can be cut is one, "
                f"as in `prune_heads({1 / units:.3g})`"
            )
        elif units > 1 and round(units * self.amount) == units:
            yield f"{self.amount:g} of {units} {what} is all of them, and one has to stay; lower it to {1 - 1 / units:.3g}"

    def apply(self, work: Work) -> None:
        """Rank, cut; modules and configuration follow."""
        from bench.models.architecture import attention, unwrapped

        _structured.put_aside(work, self.name)
        score = _scorer(work, self.importance)
        parameters = dict(work.model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        for found, group in zip(attention(work.model), _groups(work.model, shapes), strict=True):
            weights = [member for member in group if len(shapes[member.tensor]) == 2]
            scores = {member.tensor: score(parameters[member.tensor]) for member in weights}
            order = _structured.units(weights, scores).sum(1).argsort().tolist()
            _cut(found, sorted(order[: _structured.cut_of(len(order), self.amount)]))
        config = unwrapped(work.model).config
        config.num_attention_heads = found.heads
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = found.key_value_heads
        work.model.zero_grad(set_to_none=True)

    def save(self, model: nn.Module, folder: Path) -> bool:
        """Pickle the model where the configuration cannot tell its shape."""
        return _structured.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The attention layers have the smaller shapes, nothing else changed, and whole heads are left."""
        from bench.models.architecture import attention, unwrapped

        groups = _groups(work.model, before.shapes)
        yield from _structured.claims(before, work, self.name, groups, self.amount)
        pairs = [(group, group) for group in groups]
        yield _structured.ranked(before, work, self.name, pairs, self.importance, drawn=_drawn)
        config = unwrapped(work.model).config
        heads = {(found.heads, found.key_value_heads) for found in attention(work.model)}
        told = (config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads))
        yield Claim("the configuration tells the number of heads", heads == {told}, f"{sorted(heads)}, it says {told}")

    def _left(self, heads: int, shared: int) -> tuple[int, int]:
        units = shared if shared > 1 else heads
        left = units - _structured.cut_of(units, self.amount)
        return (left * heads // shared, left) if shared > 1 else (left, 1)


def _groups(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[_structured.Group]:
    """Of each block, what belongs to a head in a model whose parameters have these shapes; or to a group of heads."""
    from bench.models.architecture import attention

    names = _structured.names_of(model)
    groups = []
    for found in attention(model):
        wide, narrow = (shapes[names[id(layer.weight)]][0] for layer in (found.query, found.key))
        sharing = wide // narrow if narrow > found.head_dim else 1
        group = [
            *_structured.linear(names, found.query, outputs=True, size=found.head_dim * sharing),
            *_structured.linear(names, found.output, outputs=False, size=found.head_dim * sharing),
        ]
        if narrow > found.head_dim:
            for layer in (found.key, found.value):
                group += _structured.linear(names, layer, outputs=True, size=found.head_dim)
        groups.append(group)
    return groups


def _scorer(work: Work, importance: _structured.Importance) -> Callable[[nn.Parameter], torch.Tensor]:
    """Gives each element of a weight its score; a head's is the sum of its elements'."""
    import torch

    if importance == "taylor":
        _statistics.gradients(work, _structured.SAMPLES)
        return lambda weight: (weight.detach() * cast("torch.Tensor", weight.grad)).abs()
    if importance == "random":
        generator = torch.Generator().manual_seed(work.seed)
        return lambda weight: torch.rand(weight.shape, generator=generator)
    return lambda weight: weight.detach().float().square()


def _drawn(group: _structured.Group, tensors: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """For evidence: a number for each weight of a head, which add up."""
    import torch

    scores = []
    for member in group:
        shape = tensors[member.tensor].shape
        if len(shape) == 2:
            drawn = torch.rand(shape, generator=generator)
            scores.append(drawn.sum(1 - member.dim).view(-1, member.size).sum(1))
    return torch.stack(scores).sum(0)


def _cut(found: Attention, going: list[int]) -> None:
    import torch_pruning

    sharing = found.heads // found.key_value_heads if found.key_value_heads > 1 else 1
    asking = _places(going, found.head_dim * sharing)
    if found.key_value_heads > 1:
        for layer in (found.key, found.value):
            torch_pruning.prune_linear_out_channels(layer, _places(going, found.head_dim))
    torch_pruning.prune_linear_out_channels(found.query, asking)
    torch_pruning.prune_linear_in_channels(found.output, asking)
    found.recount()


def _places(going: list[int], size: int) -> list[int]:
    return [unit * size + place for unit in going for place in range(size)]
