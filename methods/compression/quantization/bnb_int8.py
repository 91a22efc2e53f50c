"""8-bit matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from bench.stage.evidence import Claim
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class BnbInt8(Transform):
    """Multiply int8 by int8 in the blocks' linear layers, and in full precision where an activation is an outlier.

    A scale for each output channel and for each token; columns in which an activation reaches ``threshold`` are left
    out and multiplied in full (6, the paper's; 0 turns that off). Trained after, as in ``bnb_int8 >> lora``, the weights
    stay frozen, and on a CPU activations are not rounded while training. Embeddings and the task's head stay as they
    are. A column is an outlier for the whole batch, so what an item is answered depends on those beside it: with another
    ``eval_batch_size``, quality and agreement are others (agreement .937 in batches of 7, .951 in batches of 32). The
    model is loaded in full and then converted, so loading takes the memory of both. Built on bitsandbytes:
    https://huggingface.co/docs/bitsandbytes/reference/nn/linear8bit
    """

    name = "bnb_int8"
    paper = "https://arxiv.org/abs/2208.07339"
    example = "full >> bnb_int8"
    needs = ("bitsandbytes",)
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized"})
    at_load = True

    threshold: Annotated[float, Ge(0)] = 6.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from linear_blocks(context)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from methods.compression.quantization._shared import bitsandbytes_layers as layers

        _quantized.replace(work, self.name, lambda layer: layers.eight_bits(layer, self.threshold))
        layers.mark(work.model, load_in_8bit=True, llm_int8_threshold=self.threshold)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold int8, their weights rounded, and multiply int8 by int8."""
        import torch

        from bench.models.modes import evaluating
        from methods.compression.quantization._shared import bitsandbytes_layers as layers

        def is_int8(module: nn.Module) -> bool:
            return isinstance(module, layers.Linear8bit) and module.weight.dtype == torch.int8

        yield from _quantized.claims(
            before, work, self.name, "int8", is_int8, lambda layer: layer.out_features * (layer.in_features + 4)
        )
        # Weights pass through half precision on their way.
        yield _quantized.rounded(
            before,
            work,
            self.name,
            "int8, a 127th of a row's largest a step",
            lambda weight: _quantized.symmetric(weight.half().float(), 127, -127, 127, least=1e-30),
            noise=2 * torch.finfo(torch.float16).eps,
        )
        packed = [module for module in work.model.modules() if is_int8(module)]
        with evaluating(work.model), torch.no_grad(), layers.Products() as products:
            calls = _quantized.calls(work, is_int8)
        int8 = sum(types.count(torch.int8) == 2 for types in products.seen)
        thresholds = {module.state.threshold for module in packed}  # type: ignore[union-attr]
        outliers = f"outliers from {self.threshold:g} on apart" if self.threshold else "outliers too"
        yield Claim(
            f"each of them multiplies int8 by int8, {outliers}",
            int8 == len(products.seen) == sum(calls.values())
            and len(calls) == len(packed)
            and thresholds == {self.threshold},
            f"{int8} of {len(products.seen)} products, thresholds {sorted(thresholds)}",  # type: ignore[type-var]
        )
