"""8-bit weights."""

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
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class TorchaoInt8WeightOnly(Transform):
    """Store the blocks' linear layers in int8, a scale for each output channel; activations stay as they are.

    Each product first makes floats of the weights: less memory, and no less time unless it is compiled. Embeddings and
    the task's head stay as they are. Built on torchao's ``Int8WeightOnlyConfig``:
    https://docs.pytorch.org/ao/stable/api_reference/generated/torchao.quantization.Int8WeightOnlyConfig.html
    """

    name = "torchao_int8_weight_only"
    paper = "https://arxiv.org/abs/1712.05877"
    example = "full >> torchao_int8_weight_only"
    needs = ("torchao",)
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs linear layers."""
        yield from linear_blocks(context)
        yield from _quantized.one_input(context)

    def apply(self, work: Work) -> None:
        """Quantize the blocks' linear layers in place."""
        from torchao.quantization import Int8WeightOnlyConfig

        from methods.compression.quantization._shared import torchao

        torchao.apply(work, self.name, Int8WeightOnlyConfig(set_inductor_config=False))

    def save(self, model: nn.Module, folder: Path) -> bool:
        """The state as torchao's tensors."""
        from methods.compression.quantization._shared import torchao

        return torchao.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold int8, multiply by their weights rounded to it, and round no activation."""
        import torch
        from torchao.quantization import Int8Tensor

        from methods.compression.quantization._shared import torchao

        def is_int8(module: nn.Module) -> bool:
            weight = getattr(module, "weight", None)
            return isinstance(weight, Int8Tensor) and weight.qdata.dtype == torch.int8

        yield from _quantized.claims(before, work, self.name, "int8", is_int8, torchao.int8_bytes)
        yield _quantized.rounded(
            before,
            work,
            self.name,
            "int8, a 127.5th of a row's largest a step",
            lambda weight: _quantized.symmetric(weight, 127.5, -128, 127),
        )
        yield _quantized.activations(before, work, self.name, gone=None, kept=1e-3)
