"""Folding an adapter into the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.recipe.method import Transform
from bench.stage.evidence import Claim, digest

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class Merge(Transform):
    """Fold a LoRA adapter into the weights it stands beside: no cost in inference, no base to ship it with.

    Built on PEFT's ``merge_and_unload``: https://huggingface.co/docs/peft/developer_guides/lora#merge-lora-weights-into-the-base-model
    """

    name = "merge"
    paper = "https://arxiv.org/abs/2106.09685"
    example = "lora(r=8) >> merge"
    needs = ("peft",)
    requires = (
        ("adapter", "there is no adapter to fold; it comes after one, as in `lora(r=8) >> {method}`"),
        (
            "mergeable",
            "the adapter before it is not a change of weights and cannot be folded into them; leave {method} out",
        ),
    )
    refuses = (
        (
            "quantized",
            "the weights beneath are quantized, and rounding what it folds in would lose most of it; "
            "leave the adapter on, or quantize after folding, as in `lora >> merge >> nf4`",
        ),
    )
    removes = frozenset({"adapter", "mergeable"})

    def apply(self, work: Work) -> None:
        """Fold; the layers as they were, with their adapters beside them, are put aside for the evidence."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = {name: module for name, module in work.model.named_modules() if isinstance(module, BaseTunerLayer)}
        outer = {name: module for name, module in adapted.items() if name.rpartition(".")[0] not in adapted}
        work.state[self.name] = copy.deepcopy(outer)  # all at once, for some share what they are made of
        work.model = work.model.merge_and_unload()  # type: ignore[operator]

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """No adapter is left, each weight is base plus update, all else is as it was, and so are the outputs."""
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        left = [name for name, module in work.model.named_modules() if isinstance(module, BaseTunerLayer)]
        peft_left = hasattr(work.model, "peft_config")
        yield Claim("no adapter is left", not left and not peft_left, f"{len(left)} adapter modules")
        layers = {plain(name): layer for name, layer in work.state.get(self.name, {}).items()}
        known = {
            name
            for name, layer in layers.items()
            if all(
                before.digests.get(plain(f"{name}.{tensor}")) == digest(value)
                for tensor, value in layer.named_parameters()
            )
        }
        gone = before.digests.keys() - work.after.digests.keys()
        adapters = {tensor for tensor in gone if not any(tensor.startswith(f"{name}.") for name in known)}
        right, updates, farthest = 0, [0.0], 0.0
        with torch.no_grad():
            for name in known:
                merged, layer = work.model.get_submodule(name), layers[name].eval()
                (found, bias), (wanted, had) = _multiplies(merged), _multiplies(layer)
                largest = wanted.abs().amax()
                off = float(torch.maximum((found - wanted).abs().amax(), (bias - had).abs().amax()) / largest)
                right, farthest = right + (off <= 5e-6), max(farthest, off)
                base, _ = _multiplies(layer.get_base_layer())
                updates.append(float((wanted - base).norm() / base.norm()))
        yield Claim(
            "each weight is what it was plus its update, once, for every adapter that there was",
            0 < right == len(layers) and not adapters,
            f"{right} of {len(layers)}, to {farthest:.1g} of their largest weight; updates of up to "
            f"{100 * max(updates):.2g} %; {len(adapters)} tensors of adapters beside no such layer",
        )
        others = {
            tensor for tensor in before.changed(work.after) if not any(tensor.startswith(f"{name}.") for name in known)
        }
        yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")
        assert before.logits is not None
        assert work.after.logits is not None
        error = float((before.logits - work.after.logits).abs().max() / before.logits.abs().max())
        yield Claim(
            "merged equals unmerged to 1e-4",
            error <= 1e-4,
            f"largest difference of logits {error:.1e} of the largest logit",
        )


def _multiplies(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What `layer` multiplies by and what it adds, read off its answers to the unit vectors or to all ids, and to zeros."""
    import torch

    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    weight = base.weight
    if isinstance(base, torch.nn.Embedding):
        found: torch.Tensor = layer(torch.arange(base.num_embeddings, device=weight.device))
        return found, found.new_zeros(1)
    inputs = weight.shape[1] if isinstance(base, torch.nn.Linear) else weight.shape[0]
    nothing: torch.Tensor = layer(torch.zeros(1, inputs, dtype=weight.dtype, device=weight.device))
    answers: torch.Tensor = layer(torch.eye(inputs, dtype=weight.dtype, device=weight.device))
    return answers - nothing, nothing
