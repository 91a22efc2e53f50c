"""Dynamic int8 quantization on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.evidence import Claim, plain
from bench.method import Place, Transform
from methods import _quantized
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.work import Work


@dataclass(frozen=True)
class DynamicInt8(Transform):
    """Store the blocks' linear layers in int8, a scale for each output channel, and quantize activations as they come.

    Built on ``torch.ao.quantization.quantize_dynamic``; a scale a channel keeps far more of the outputs than one a
    tensor. Embeddings and the task's head stay as they are. CPU only. Documentation:
    https://docs.pytorch.org/docs/stable/quantization.html
    """

    name = "dynamic_int8"
    paper = "https://arxiv.org/abs/1712.05877"
    example = "full >> dynamic_int8"
    gives = frozenset({"quantized", "inference_only"})

    def problems(self, place: Place) -> Iterator[str]:
        """Its kernels are for CPUs, and for plain weights."""
        if place.machine.device != "cpu":
            yield 'its kernels are for CPUs only; run the suite with device = "cpu"'
        if "adapter" in place.facts:
            yield f"there is an adapter on the weights; {place.fold(self)}"
        if "quantized" in place.facts:
            yield "the weights are quantized already; leave one of the two out"
        yield from linear_blocks(place)

    def apply(self, work: Work) -> None:
        """Replace the blocks' linear layers."""
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        from bench.architecture import as_linear, block_linears

        as_linear(work.model)
        names = dict.fromkeys(block_linears(work.model), per_channel_dynamic_qconfig)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated for torchao, which has no CPU kernels this fast
            quantize_dynamic(work.model, names, inplace=True)

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """Packed weights have no place in a safetensors file."""
        import torch

        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return True

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every linear layer of the blocks is a dynamic one with qint8 weights, in the bytes that these take."""
        import torch

        from bench.architecture import block_linears
        from bench.measure.memory import storage_bytes

        found = {
            plain(name): module
            for name, module in work.model.named_modules()
            if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
        }
        packed = list(found.values())
        dtypes = {str(module.weight().dtype) for module in packed}
        left = len(block_linears(work.model))
        yield Claim(
            "every linear layer of the blocks is int8",
            bool(packed) and not left and dtypes == {"torch.qint8"},
            f"{len(packed)} packed, {left} left, dtypes {sorted(dtypes)}",
        )
        yield _quantized.same_inputs(before, work, found.keys())
        biases = sum(layer.bias().nbytes for layer in packed if layer.bias() is not None)
        held = sum(map(storage_bytes, packed)) - biases
        # A byte a weight; the scale and the zero point of each row. In tiny layers these outweigh what is saved.
        size = sum(layer.out_features * (layer.in_features + 4 + 4) for layer in packed)
        yield Claim(
            "they take the bytes of their codes and scales",
            0 < held == size,
            f"{held:,} B; the model {before.bytes:,} → {work.after.bytes:,} B",
        )
