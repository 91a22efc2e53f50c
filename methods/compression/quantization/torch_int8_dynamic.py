"""Dynamic int8 quantization on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plan.context import PlanContext
from bench.recipe.method import Transform
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Claim, Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class TorchInt8Dynamic(Transform):
    """Store the blocks' linear layers in int8, a scale for each output channel, and quantize activations as they come.

    Built on ``torch.ao.quantization.quantize_dynamic``; a scale a channel keeps far more of the outputs than one a
    tensor. Embeddings and the task's head stay as they are. CPU only. Documentation:
    https://docs.pytorch.org/docs/stable/quantization.html
    """

    name = "torch_int8_dynamic"
    paper = "https://arxiv.org/abs/1712.05877"
    example = "full >> torch_int8_dynamic"
    refuses = _quantized.REFUSES
    adds = frozenset({"quantized", "inference_only"})

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Its kernels are for CPUs, and for plain weights."""
        if context.machine.device != "cpu":
            yield 'its kernels are for CPUs only; run the suite with device = "cpu"'
        yield from linear_blocks(context)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        from bench.models.architecture import as_linear, block_linears

        as_linear(work.model)
        layers = block_linears(work.model)
        for path, layer in layers.items():
            _quantized.remember(work, self.name, path, layer)
        names = dict.fromkeys(layers, per_channel_dynamic_qconfig)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated for torchao, which has no CPU kernels this fast
            quantize_dynamic(work.model, names, inplace=True)

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """Packed weights have no place in a safetensors file."""
        return _quantized.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers are dynamic ones that hold qint8, their weights rounded, in the bytes that this takes."""
        import torch

        def is_int8(module: torch.nn.Module) -> bool:
            if not isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
                return False
            weight: torch.Tensor = module.weight()
            return weight.dtype == torch.qint8

        def size(layer: torch.nn.Linear) -> int:
            # A byte a weight; the scale and the zero point of each row. In tiny layers these outweigh what is saved.
            return layer.out_features * (layer.in_features + 4 + 4)

        yield from _quantized.claims(before, work, self.name, "int8", is_int8, size)
        yield _quantized.rounded(
            before,
            work,
            self.name,
            "int8, a 127.5th of a row's largest a step",
            lambda weight: _quantized.symmetric(weight, 127.5, -128, 127),
            # Its activations are rounded, so its answers would not tell.
            read=lambda layer, weight: layer.weight().dequantize(),
        )
        # In steps of a 127th or of a 255th, as the machine's kernels have it.
        yield _quantized.activations(before, work, self.name, gone=1e-3, kept=1e-2)
