"""4-bit weights with a kernel of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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

_CUT = "its kernel needs rows of whole groups, and the layers were cut before; use `int4`, which takes any"


@dataclass(frozen=True)
class TorchaoInt4WeightOnly(Transform):
    """Store the blocks' linear layers in 4 bits for a kernel that multiplies by them as they are, in bfloat16.

    Each ``group_size`` weights of a row (128, the library's default) share a scale and a zero point, both bfloat16. The
    layers cast what comes in to bfloat16 and what goes out back: on a CPU the kernel is tens of times slower in float32.
    Embeddings and the task's head stay as they are. Built on torchao: on CUDA ``Int4WeightOnlyConfig`` in tiles, which
    pad rows to whole 1024s, and on a CPU its prototype:
    https://docs.pytorch.org/ao/stable/api_reference/generated/torchao.quantization.Int4WeightOnlyConfig.html
    """

    name = "torchao_int4_weight_only"
    paper = "https://arxiv.org/abs/2206.01861"
    example = "full >> torchao_int4_weight_only(group_size=64)"
    needs = ("torchao",)
    refuses = (*_quantized.REFUSES, ("reshaped", _CUT), ("factored", _CUT))
    adds = frozenset({"quantized", "inference_only"})

    group_size: Literal[32, 64, 128] = 128

    def problems(self, context: PlanContext) -> Iterator[str]:
        """It needs rows that are whole groups."""
        yield from linear_blocks(context)
        sizes = [context.config.get(key, 0) for key in ("hidden_size", "intermediate_size")]
        if any(size % self.group_size for size in sizes):
            yield (
                f"its kernel needs rows of whole groups, and {sizes[0]} and {sizes[1]} are not both multiples of "
                f"{self.group_size}; lower group_size, or use `int4`, which takes any"
            )

    def apply(self, work: Work) -> None:
        """Quantize the blocks' linear layers in place, and let them multiply in bfloat16."""
        from methods.compression.quantization._shared import torchao

        config: object
        if work.device.type == "cpu":
            from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

            config = PrototypeInt4WeightOnlyConfig(self.group_size, set_inductor_config=False)
        else:
            from torchao.quantization import Int4WeightOnlyConfig

            tiles = "tile_packed_to_4d"
            config = Int4WeightOnlyConfig(self.group_size, set_inductor_config=False, int4_packing_format=tiles)
        torchao.apply(work, self.name, config, bfloat16=True)

    def save(self, model: nn.Module, folder: Path) -> bool:
        """The state as torchao's tensors."""
        from methods.compression.quantization._shared import torchao

        return torchao.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks' linear layers hold packed 4-bit codes, and multiply by their weights rounded to them."""
        import torch
        from torchao.prototype.quantization.int4 import Int4OpaqueTensor
        from torchao.quantization import Int4TilePackedTo4dTensor

        kind = Int4OpaqueTensor if work.device.type == "cpu" else Int4TilePackedTo4dTensor

        def expected(weight: torch.Tensor) -> torch.Tensor:
            groups = weight.bfloat16().float().unflatten(1, (-1, self.group_size))
            low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
            step = ((high - low) / 15).clamp(min=1e-6)
            found: torch.Tensor = (((groups - low) / step).round() * step + low).flatten(1)
            return found

        def size(layer: torch.nn.Linear) -> int:
            # Tiles are 1024 wide. Scale and zero point are bfloat16.
            columns = layer.in_features if work.device.type == "cpu" else -(-layer.in_features // 1024) * 1024
            return layer.out_features * (columns // 2 + 4 * columns // self.group_size)

        yield from _quantized.claims(
            before, work, self.name, "packed", lambda module: isinstance(getattr(module, "weight", None), kind), size
        )
        yield _quantized.rounded(
            before,
            work,
            self.name,
            "4 bits, from a group's smallest to its largest in 15 steps",
            expected,
            noise=4 * torch.finfo(torch.bfloat16).eps,
        )
