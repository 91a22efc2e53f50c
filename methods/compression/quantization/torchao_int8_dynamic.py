"""8-bit weights and activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from bench.stage.evidence import Claim
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class TorchaoInt8Dynamic(Transform):
    """Multiply int8 by int8 in the blocks' linear layers: a scale for each output channel, and one for each token.

    Activations are rounded as they come. It is fast where it is compiled after. On a CPU without VNNI one bit is left
    unused, because sums would overflow there. Embeddings and the task's head stay as they are. Training with
    ``qat_int8`` before prepares for exactly this rounding. Built on torchao's ``Int8DynamicActivationInt8WeightConfig``:
    https://docs.pytorch.org/ao/stable/api_reference/generated/torchao.quantization.Int8DynamicActivationInt8WeightConfig.html
    """

    name = "torchao_int8_dynamic"
    paper = "https://arxiv.org/abs/2206.01861"
    example = "full >> torchao_int8_dynamic"
    needs = ("torchao",)
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from linear_blocks(context)
        yield from _quantized.one_input(context)

    def apply(self, work: Work) -> None:
        """Quantize the blocks' linear layers in place."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        from torchao.utils import should_reduce_range

        from methods.compression.quantization._shared import torchao

        reduced = should_reduce_range(work.device)
        config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=reduced)
        torchao.apply(work, self.name, config)

    def save(self, model: nn.Module, folder: Path) -> bool:
        """The state as torchao's tensors."""
        from methods.compression.quantization._shared import torchao

        return torchao.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold int8, multiply by their weights rounded to it, and round activations too."""
        import torch
        from torchao.quantization import Int8Tensor
        from torchao.utils import should_reduce_range

        from methods.compression.quantization._shared import torchao

        top = 63 if should_reduce_range(work.device) else 127

        def is_int8(module: nn.Module) -> bool:
            weight = getattr(module, "weight", None)
            return isinstance(weight, Int8Tensor) and weight.qdata.dtype == torch.int8

        def read(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
            # The 1 of a unit vector is its largest, and lies half a step beyond the last code.
            return _quantized.effective(layer, weight) * (top + 0.5) / top

        yield from _quantized.claims(before, work, self.name, "int8", is_int8, torchao.int8_bytes)
        yield _quantized.rounded(
            before,
            work,
            self.name,
            f"int8, a {top + 0.5}th of a row's largest a step",
            lambda weight: _quantized.symmetric(weight, top + 0.5, -top - 1, top),
            read=read,
        )
        yield _quantized.activations(before, work, self.name, gone=0.4 / (top + 0.5), kept=0.6 / (top + 0.5))
