"""Structured pruning of feed-forward layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from bench.evidence import Claim
from bench.method import Place, Transform

if TYPE_CHECKING:
    from bench.evidence import Snapshot
    from bench.work import Work


@dataclass(frozen=True)
class PruneFFN(Transform):
    """Take out feed-forward neurons: the intermediate size of every block really shrinks, and so does its time.

    A neuron's importance is the L2 norm of all weights that come into it and go out of it. Built on torch-pruning,
    which finds those weights by tracing the model: https://github.com/VainF/Torch-Pruning
    """

    name = "prune_ffn"
    paper = "https://arxiv.org/abs/2301.12900"
    example = "full >> prune_ffn(0.5) >> full(share=0.3)"
    needs = ("torch_pruning",)

    amount: Annotated[float, Gt(0), Lt(1)]

    def problems(self, place: Place) -> Iterator[str]:
        """It cuts plain weights."""
        if "adapter" in place.facts:
            yield "there is an adapter on the weights; fold it first, as in `lora >> merge >> prune_ffn(0.5)`"
        if "quantized" in place.facts:
            yield "quantized weights cannot be cut; prune first, as in `prune_ffn(0.5) >> dynamic_int8`"

    def apply(self, work: Work) -> None:
        """Trace, rank, cut; the configuration follows."""
        import torch_pruning

        from bench.architecture import base, feed_forward

        model = work.model
        config = base(model).config
        cache, config.use_cache = getattr(config, "use_cache", None), False
        # Tracing follows gradients.
        model.requires_grad_(True)
        one = {name: tensor[:1] for name, tensor in work.probe.inputs.items()}
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=one)
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        for up, down in feed_forward(model):
            neurons = down.in_features
            cut = torch_pruning.prune_linear_out_channels
            group = graph.get_pruning_group(up[0], cut, list(range(neurons)))
            order = importance(group).argsort().tolist()
            graph.get_pruning_group(up[0], cut, sorted(order[: self._cut(neurons)])).prune()
        config.intermediate_size = down.in_features
        config.use_cache = cache
        model.zero_grad(set_to_none=True)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every block's feed-forward layers have the smaller shape, and nothing else changed its shape."""
        from bench.architecture import base, feed_forward

        widths = {layer.out_features for up, _ in feed_forward(work.model) for layer in up}
        widths |= {down.in_features for _, down in feed_forward(work.model)}
        after = work.after
        smaller = {name for name, shape in before.shapes.items() if after.shapes.get(name) != shape}
        old = {size for name in smaller for size in before.shapes[name]} - {
            size for name in smaller for size in after.shapes.get(name, ())
        }
        expected = {size - self._cut(size) for size in old}
        yield Claim(
            "every feed-forward layer has the smaller width",
            len(widths) == 1 and widths == expected == {base(work.model).config.intermediate_size},
            f"{sorted(old)} → {sorted(widths)}",
        )
        per_block = len(smaller) / base(work.model).config.num_hidden_layers
        yield Claim("no other shape changed", bool(smaller) and per_block <= 4, f"{per_block:g} tensors a block changed shape")

    def _cut(self, neurons: int) -> int:
        return round(neurons * self.amount)
