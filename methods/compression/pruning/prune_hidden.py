"""Structured pruning of the hidden size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
class PruneHidden(_structured.Structured):
    """Make the hidden size smaller, the same channels everywhere: embeddings, norms, every layer's end and the head.

    Attention stays as wide as it was; `prune_heads` makes that smaller. A channel's ``importance`` is taken over the
    linear layers and layer norms that it goes through: "l2" is the norm of these, "taylor" the sum of
    |weight · gradient| over 128 training items (https://arxiv.org/abs/1906.10771), "random" draws it. What BERT's
    configuration cannot tell, a hidden size that is not the heads' together, is saved as a pickled model. Built on
    torch-pruning, which finds the weights by tracing: https://github.com/VainF/Torch-Pruning
    """

    name = "prune_hidden"
    paper = "https://arxiv.org/abs/2301.12900"
    example = "full >> prune_hidden(0.25) >> full(share=0.3)"
    needs = ("torch_pruning",)
    adds = frozenset({"reshaped", "uneven"})

    amount: Annotated[float, Gt(0), Lt(1)]
    importance: _structured.Importance = "l2"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The part that is cut must be known."""
        yield from known(context, "fewer_channels")
        if context.structure.both_ways and not context.task.new_head and context.config.get("tie_word_embeddings"):
            yield (
                f"the head of a {context.model} model has a layer between the hidden states and the embeddings that it is tied "
                "to, and other channels would be cut of either; use prune_ffn"
            )

    def apply(self, work: Work) -> None:
        """Trace, rank, cut; the configuration follows, and weights that were tied are tied again."""
        from bench.models import conventions
        from bench.models.architecture import attention, block_linears, told, unwrapped

        _structured.put_aside(work, self.name)
        model, output = unwrapped(work.model), attention(work.model)[0].output
        hidden, inside = output.out_features, block_linears(work.model).values()
        with _structured.graph(work) as graph:
            rank = _structured.ranking(work, self.importance)
            _structured.cut(graph, output, rank, self.amount)
            # A pooler starts channels of its own, which are to be as many.
            for layer in [module for module in model.modules() if getattr(module, "out_features", None) == hidden]:
                if layer not in inside:
                    _structured.cut(graph, layer, rank, self.amount)
        for size in told(model, conventions.HIDDEN_WIDTH, hidden):
            setattr(model.config, size, output.out_features)
        model.tie_weights()

    def save(self, model: nn.Module, folder: Path) -> bool:
        """Pickle the model where the configuration cannot tell its shape."""
        return _structured.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every tensor along the hidden size has the smaller shape, nothing else changed, and channels are whole."""
        from bench.models.architecture import attention, unwrapped

        channels, others = _channels(work.model, before.shapes)
        yield from _structured.claims(before, work, self.name, [channels], self.amount, others)
        yield self._ranked(before, work, channels, others)
        sizes = {found.output.out_features for found in attention(work.model)}
        told = unwrapped(work.model).config.hidden_size
        yield Claim("the configuration tells the size", sizes == {told}, f"{sorted(sizes)}, it says {told}")

    def _ranked(self, before: Snapshot, work: Work, channels: _structured.Group, others: _structured.Group) -> Claim:
        """What is outside of the blocks goes with their channels, up to a layer that begins with channels of its own."""
        from bench.stage.evidence import named_tensors

        whole = _structured.originals(before, work, self.name)
        # As a pass goes, which need not be the order in which the modules were made.
        ahead, head = _around(work.model)
        order = {tensor: (tensor not in ahead, tensor in head, place) for place, tensor in enumerate(before.shapes)}
        scored = [[*channels]]
        groups = [(channels, scored[0])]
        for member in sorted(others, key=lambda member: (*order[member.tensor], -member.dim)):
            anew = member.dim == 0 and len(before.shapes[member.tensor]) == 2 and member.tensor not in ahead
            if anew:
                scored.append([])
                groups.append(([member], scored[-1]))
            if member not in scored[-1]:  # a head may be tied to the embeddings
                scored[-1].append(member)
        kept = []
        if whole:
            now = named_tensors(work.model)
            kept = _structured.survivors(_structured.units(channels, whole), _structured.units(channels, now))
        columns = {told[0].tensor: kept for told, _ in groups[1:]}
        return _structured.ranked(before, work, self.name, groups, self.importance, columns=columns)


def _around(model: nn.Module) -> tuple[set[str], set[str]]:
    """The names of the parameters before the blocks, and of those that are the task's head."""
    from bench.models.architecture import around, body, head_parameters

    names, inner = _structured.names_of(model), body(model)
    ahead = [p for name in around(model)[0] for p in inner.get_submodule(name).parameters()]
    return {names[id(p)] for p in ahead}, {names[id(p)] for p in head_parameters(model).values()}


def _channels(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[_structured.Group, _structured.Group]:
    """Where the hidden size is, in a model whose parameters had these shapes: told by what each layer is for.

    First what goes from the embeddings through the blocks, then what is behind them, where a pooler may begin anew.
    """
    from torch import nn

    from bench.models.architecture import attention, blocks, feed_forward

    names = _structured.names_of(model)
    through: _structured.Group = []
    known: set[nn.Module] = set()
    of_heads = {id(p) for found in attention(model) for p in found.others}
    for found, (up, down) in zip(attention(model), feed_forward(model), strict=True):
        for layer in (found.query, found.key, found.value, *up):
            through += _structured.linear(names, layer, outputs=False)
        for layer in (found.output, down):
            through += _structured.linear(names, layer, outputs=True)
        known |= {found.query, found.key, found.value, found.output, *up, down}
    hidden = shapes[names[id(found.output.weight)]][0]
    inside = {module for block in blocks(model) for module in block.modules()}
    behind: _structured.Group = []
    for module in model.modules():
        if module in known:
            continue
        embeds = isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False):
            if id(parameter) in of_heads:
                continue
            tensor = names[id(parameter)]
            dims = [dim for dim, size in enumerate(shapes[tensor]) if size == hidden and not (embeds and dim == 0)]
            (through if embeds or module in inside else behind).extend(_structured.Member(tensor, d) for d in dims)
    return through, behind
