"""Low-rank factorisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from bench.plan.context import PlanContext
from bench.recipe.errors import RecipeError
from bench.recipe.method import Transform
from bench.stage.evidence import Claim, digest
from methods import _coverage, _refusals, _structured
from methods._models import linear_blocks
from methods._quantized import casting

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class LowRank(Transform):
    """Replace the blocks' linear layers by two each, the best product of a low rank: a truncated SVD of the weights.

    Give the ``rank``, or the ``energy``, the share of each weight's squared singular values to keep, from which each
    layer's rank follows. A layer that would not get smaller stays. What is left is ordinary linear layers, which train
    and quantize; ``from_pretrained`` cannot build them, so the model is saved pickled. Built on ``torch.linalg.svd``.
    """

    name = "low_rank"
    paper = "https://arxiv.org/abs/1404.0736"
    example = "full >> low_rank(64) >> full(share=0.3)"
    tolerates = frozenset({"half"})
    refuses = (
        ("adapter", _refusals.ADAPTER),
        ("quantized", "quantized weights cannot be factored; factor first, as in `{method} >> torch_int8_dynamic`"),
        (
            "sparse",
            "factors of a sparse matrix are dense and lose its zeros; factor first, as in `{method} >> magnitude(0.5)`",
        ),
        ("factored", "the layers are factored already; factor once, by the rank that is wanted in the end"),
    )
    adds = frozenset({"factored"})

    rank: Annotated[int, Ge(1)] | None = None
    energy: Annotated[float, Gt(0), Lt(1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rank is None) == (self.energy is None):
            raise RecipeError(
                "low_rank: give either `rank` or `energy`, as in `low_rank(64)` or `low_rank(energy=0.9)`"
            )

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The rank must save something."""
        yield from linear_blocks(context)
        yield from casting(context, "a layer is two here")
        if self.rank is not None and "reshaped" not in context.facts:
            hidden, wide = context.config.get("hidden_size"), context.config.get("intermediate_size")
            if hidden and wide and self.rank >= (most := hidden * wide / (hidden + wide)):
                yield f"no layer gets smaller by a rank of {self.rank}; one of {hidden} × {wide} does below {most:.0f}"

    def apply(self, work: Work) -> None:
        """Factor each layer that gets smaller by it."""
        import torch
        from torch import nn

        from bench.models.architecture import block_linears

        aside = work.state[self.name] = {}
        factored = 0
        for name, layer in block_linears(work.model).items():
            weight = layer.weight.detach()
            left, singular, right = torch.linalg.svd(weight.float(), full_matrices=False)
            aside[name] = weight.cpu().clone()
            rank = self._rank(singular)
            if not _pays(rank, weight.shape):
                continue
            factored += 1
            # Each factor gets the root of each singular value, so that neither is out of scale in training.
            root = singular[:rank].sqrt()
            down = _linear(root[:, None] * right[:rank], None)
            up = _linear(left[:, :rank] * root, layer.bias)
            work.model.set_submodule(name, nn.Sequential(down, up).to(weight.dtype).train(layer.training))
        if not factored:
            raise ValueError(f"no layer would get smaller by {self}")

    def save(self, model: nn.Module, folder: Path) -> bool:
        """The configuration knows of no factors, so pickle the model."""
        return _structured.save(model, folder)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Each layer is the truncated SVD of what it was, where that is smaller, and the rest is as it was."""
        import torch

        after = work.after
        layers = {name.removesuffix(".weight") for name in _coverage.matrices(before, work.model)}
        originals = {
            name: weight.double()
            for name, weight in work.state.get(self.name, {}).items()
            if digest(weight) == before.digests[f"{name}.weight"]
        }
        yield _coverage.covers(before, work, {f"{name}.weight" for name in originals}, "decomposed")
        singular = {name: torch.linalg.svdvals(weight) for name, weight in originals.items()}
        wanted = {name: self._wanted(values) for name, values in singular.items()}
        # A product of two takes r·(in + out) weights.
        smaller = {name for name, rank in wanted.items() if rank * sum(originals[name].shape) < originals[name].numel()}
        factored = {name for name in originals if f"{name}.weight" not in after.shapes}
        yield Claim(
            "those layers are factored that get smaller by it, and no others",
            len(originals) == len(layers) and len(factored) > 0 and factored == smaller,
            f"{len(factored & smaller)} of {len(smaller)}, {len(factored - smaller)} others of {len(layers)}",
        )
        ranks = {name: after.shapes.get(f"{name}.0.weight", (0, 0))[0] for name in factored}
        right = [name for name in factored & smaller if abs(ranks[name] - wanted[name]) <= self._unsure(singular[name])]
        yield Claim(
            "the factors are of the rank that was asked for",
            0 < len(right) == len(factored),
            f"ranks {min(ranks.values(), default=0)} to {max(ranks.values(), default=0)}, right in {len(right)} layers",
        )
        errors, uneven = [0.0], [0.0]
        for name in right:
            parts = work.model.get_submodule(name).parameters()
            down, up = (weight.detach().double().cpu() for weight in parts if weight.dim() == 2)
            values, kept = singular[name], singular[name][: ranks[name]]
            lost = (originals[name] - up @ down).square().sum() - values[ranks[name] :].square().sum()
            errors.append(float(lost.abs() / values.square().sum()))
            # Of the factors, each has the root of each singular value: their squares are the same diagonal matrix.
            uneven += [float((found - kept.diag()).abs().max() / values[0]) for found in (down @ down.T, up.T @ up)]
        half = any(dtype in ("float16", "bfloat16") for dtype in before.dtypes.values())
        yield Claim(
            "their product is off by the discarded singular values and no more",
            len(right) == len(factored) and max(errors) <= (1e-4 if half else 1e-8),
            f"squared, relative to the weight, to within {max(errors):.1e}",
        )
        yield Claim(
            "either factor has the roots of the singular values",
            len(right) == len(factored) and max(uneven) <= (2e-2 if half else 1e-4),
            f"to within {max(uneven):.1e} of the largest",
        )
        was, now = (sum(map(prod, snapshot.shapes.values())) for snapshot in (before, after))
        saved = sum(
            prod(before.shapes[f"{name}.weight"]) - ranks[name] * sum(before.shapes[f"{name}.weight"])
            for name in factored
        )
        yield Claim(
            "a rank r takes r·(in + out) weights",
            was - now == saved > 0,
            f"{was:,} → {now:,} numbers, formula {was - saved:,}",
        )
        moved = {f"{name}.bias": f"{name}.1.bias" for name in factored}
        kept_names = before.digests.keys() - {f"{name}.weight" for name in factored}
        changed = {name for name in kept_names if before.digests[name] != after.digests.get(moved.get(name, name))}
        yield Claim("nothing else changed", not changed, f"{len(changed)} other tensors changed")

    def _wanted(self, singular: torch.Tensor) -> int:
        """For evidence: the rank for these singular values, largest first."""
        import torch

        if self.rank is not None:
            return min(self.rank, len(singular))
        squares = singular.square()
        lost = torch.cat([squares.flip(0).cumsum(0).flip(0), torch.zeros(1)])  # by rank
        assert self.energy is not None
        return int((lost > (1 - self.energy) * lost[0]).sum())

    def _unsure(self, singular: torch.Tensor) -> int:
        """By how much a rank may be off: 1 where a share of squares is, but for rounding, just the energy."""
        if self.energy is None:
            return 0
        shares = singular.square().cumsum(0) / singular.square().sum()
        return int(bool(((shares - self.energy).abs() < 1e-6).any()))

    def _rank(self, singular: torch.Tensor) -> int:
        """The rank for a weight with these singular values."""
        if self.rank is not None:
            return min(self.rank, len(singular))
        assert self.energy is not None
        kept = singular.double().square().cumsum(0)
        return int((kept < self.energy * kept[-1]).sum()) + 1


def _pays(rank: int, shape: Sequence[int]) -> bool:
    return rank * sum(shape) < prod(shape)


def _linear(weight: torch.Tensor, bias: nn.Parameter | None) -> nn.Linear:
    from torch import nn

    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.contiguous())
    made.register_parameter("bias", bias)
    return made
