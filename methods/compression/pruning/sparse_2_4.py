"""Two zeros in every four weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.stage.evidence import Claim
from methods import _coverage, _masks, _statistics
from methods._calibration import Calibrated

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class Sparse24(Calibrated, _masks.Masking):
    """Set two weights in each four of a row to zero: the pattern that NVIDIA's tensor cores skip, from Ampere on.

    Which two is told by their size, by the score of `wanda` or by that of `sparsegpt`, which also moves the weights
    that it keeps; ``samples`` items of ``data`` serve those two, 128 as in their papers. Layers whose width is no multiple
    of four are left alone. ``storage`` says what becomes of the zeros. "dense" leaves them in ordinary tensors: no speed
    and no memory is to be had from that, on any device, but a later training can go on, and keeps them. "compressed"
    is for GPUs and for inference alone: it casts the model to bfloat16, as the kernels need, and converts the layers by
    ``torch.sparse.to_sparse_semi_structured``. Documentation:
    https://docs.pytorch.org/docs/stable/sparse.html#sparse-semi-structured-tensors
    """

    name = "sparse_2_4"
    paper = "https://arxiv.org/abs/2104.08378"
    example = "full >> sparse_2_4"

    criterion: Literal["magnitude", "wanda", "sparsegpt"] = "magnitude"
    storage: Literal["dense", "compressed"] = "dense"

    @property
    def adds(self) -> frozenset[Fact]:
        """Compressed weights can be neither trained nor changed any more."""
        return frozenset({"sparse", *(("quantized", "inference_only") if self.storage == "compressed" else ())})

    @property
    def tolerates(self) -> frozenset[Fact]:
        """Weights of 16 bits, but not by the surgeon's solver, which is for those of 32."""
        return frozenset() if self.criterion == "sparsegpt" else frozenset({"half"})

    @property
    def calibrates(self) -> bool:
        """The size of a weight needs no data."""
        return self.criterion != "magnitude"

    @property
    def share(self) -> float:
        """Two of four."""
        return 0.5

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Only GPUs have kernels for compressed weights."""
        yield from super().problems(context)
        if self.storage == "compressed" and context.machine.device != "cuda":
            yield 'compressed weights need an NVIDIA GPU, of the Ampere generation or later; here use storage="dense"'

    def cut(self, work: Work) -> None:
        """Choose and zero, block by block; then compress, if that is wanted."""
        if self.storage == "compressed":
            _cast(work)
        for block in _masks.by_block(work.model):
            grouped = {name: layer for name, layer in block.items() if _has_groups(layer)}
            if self.criterion == "sparsegpt":
                self._solve(work, grouped)
                continue
            squares = self._squares(work, grouped)
            for name, layer in grouped.items():
                _masks.zero_lowest(layer, _scores(layer.weight.detach(), squares.get(name)), 2)
        if self.storage == "compressed":
            _compress(work.model)

    def save(self, model: nn.Module, folder: Path) -> bool:
        """Compressed weights have no place in a safetensors file."""
        if self.storage == "dense":
            return False
        import torch

        from bench.measure.memory import parts

        tensors = {name: list(parts(tensor)) for name, tensor in model.state_dict().items()}
        torch.save(tensors, folder / "pytorch_model.bin")
        return True

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Each group of four has two zeros, the right ones, and they are stored as was asked for."""
        if self.storage == "dense":
            yield from super().evidence(before, work)
            yield Claim(
                "the zeros are stored in dense tensors: no speed and no memory is gained",
                work.after.bytes == before.bytes,
                f"{before.bytes:,} → {work.after.bytes:,} B",
            )
            return
        yield from _stored(work)
        # A copy is dense, so that it can be looked at and measured again.
        dense = copy.copy(work)
        dense.model = copy.deepcopy(work.model)
        yield from self.pattern(dense)
        yield from self.chosen(dense, self.originals(before, work))

    def pattern(self, work: Work) -> Iterator[Claim]:
        """Every group of four has exactly two zeros."""
        weights = _coverage.weights(work.model)
        grouped = [weight for weight in weights.values() if not weight.shape[1] % 4]
        wrong = sum(int((weight.unflatten(1, (-1, 4)).count_nonzero(2) != 2).sum()) for weight in grouped)
        groups = sum(weight.numel() // 4 for weight in grouped)
        yield Claim(
            "each group of four weights has exactly two zeros",
            groups > 0 and not wrong,
            f"{wrong:,} of {groups:,} groups have not; {len(weights) - len(grouped)} layers are no multiple of four wide",
        )

    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """The two of each group that the criterion scores lowest are zero."""
        grouped = {name: was for name, was in originals.items() if not was.shape[1] % 4}
        if self.criterion == "sparsegpt":
            yield from _masks.made_up(work, grouped, self.calibration, 0.01, together=4, flat=False)
            return
        yield _masks.unchanged(work, originals)
        now = _coverage.weights(work.model)
        scored: Iterator[tuple[torch.Tensor, torch.Tensor]] = (
            _masks.by_norms(work, grouped, self.calibration, together=4)
            if self.criterion == "wanda"
            else ((was.abs().view(-1, 4), now[name].detach().cpu().view(-1, 4) == 0) for name, was in grouped.items())
        )
        yield _masks.lowest(f"each group's lowest two by {self.criterion}", scored, 1e-4)

    def _squares(self, work: Work, layers: Mapping[str, nn.Linear]) -> dict[str, torch.Tensor]:
        return _statistics.collect(work, layers, self.calibration, _masks.squares) if self.criterion == "wanda" else {}

    def _solve(self, work: Work, layers: Mapping[str, nn.Linear]) -> None:
        import torch

        from methods.compression.pruning._shared import obs

        def choose(scores: torch.Tensor) -> torch.Tensor:
            lowest = scores.topk(2, dim=1, largest=False).indices
            return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, lowest, True)

        products = _statistics.collect(work, layers, self.calibration, _masks.products)
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.copy_(obs.solve(layer.weight.float(), products[name], choose, at_once=4, damp=0.01))


def _has_groups(layer: nn.Linear) -> bool:
    return layer.in_features % 4 == 0


def _scores(weight: torch.Tensor, squares: torch.Tensor | None) -> torch.Tensor:
    sizes = weight.float().abs()
    return (sizes if squares is None else sizes * squares.sqrt()).view(-1, 4)


def _cast(work: Work) -> None:
    import torch

    if torch.cuda.get_device_capability(work.device) < (8, 0):
        raise RuntimeError("this GPU has no sparse tensor cores; they came with compute capability 8.0")
    work.model.to(torch.bfloat16)


def _compress(model: nn.Module) -> None:
    from methods.compression.pruning._shared.semi_structured import SemiStructuredLinear

    for name, layer in _masks.layers(model).items():
        if SemiStructuredLinear.fits(layer):
            model.set_submodule(name, SemiStructuredLinear.of(layer))


def _stored(work: Work) -> Iterator[Claim]:
    import torch

    from methods.compression.pruning._shared.semi_structured import SemiStructuredLinear

    layers = _masks.layers(work.model).values()
    fitting = [layer for layer in layers if SemiStructuredLinear.fits(layer)]
    packed = [layer for layer in fitting if isinstance(layer.weight.data, torch.sparse.SparseSemiStructuredTensor)]
    yield Claim(
        "the layers whose shape the kernels take are stored compressed",
        0 < len(packed) == len(fitting),
        f"{len(packed)} of {len(fitting)}; {len(layers) - len(fitting)} others stay dense",
    )
    dtypes = {str(tensor.dtype) for tensor in work.model.parameters()}
    yield Claim("the model is in bfloat16", dtypes == {"torch.bfloat16"}, ", ".join(sorted(dtypes)))
