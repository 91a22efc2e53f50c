"""Half-precision weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.models.names import plain
from bench.recipe.method import Transform
from bench.stage.evidence import Claim, digest, projection
from methods import _refusals

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class Half(Transform):
    """Hold every weight in 16 bits and compute in them: the plain baseline that any other compression has to beat.

    bfloat16 keeps float32's range, float16 has three more bits of precision. Buffers such as rotary frequencies stay
    as they are, which is what ``from_pretrained(dtype=…)`` gives. For inference; to train in half precision, use
    ``+ mixed_precision``, which keeps the weights in float32. Documentation:
    https://docs.pytorch.org/docs/stable/tensor_attributes.html#torch-dtype
    """

    name = "half"
    paper = "https://arxiv.org/abs/1905.12322"
    example = 'full >> half("bf16")'
    refuses = (
        ("adapter", _refusals.ADAPTER),
        ("quantized", "the weights are in fewer bits than 16 already; leave one of the two out"),
    )
    adds = frozenset({"half"})

    dtype: Literal["bf16", "fp16"] = "bf16"

    def apply(self, work: Work) -> None:
        """Cast; what is no matrix, which a snapshot tells little of, is put aside for the evidence."""
        dtype = self._dtype()
        aside = work.state[self.name] = {}
        for name, parameter in work.model.named_parameters():
            if parameter.is_floating_point():
                if parameter.dim() != 2:
                    aside[plain(name)] = parameter.detach().cpu().clone()
                parameter.data = parameter.data.to(dtype)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every weight is the nearest of the type, all bytes are accounted for, and a real activation has the type too."""
        import torch

        dtype, after = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.dtype], work.after
        weights = {plain(name): weight for name, weight in work.model.named_parameters()}
        held = {str(weight.dtype) for weight in weights.values() if weight.is_floating_point()}
        yield Claim(f"every weight is {self.dtype}", held == {str(dtype)}, ", ".join(sorted(held)))
        yield from self._nearest(before, work, weights)
        buffers = {plain(name) for name, _ in work.model.named_buffers()}
        other = {name for name in buffers if before.digests.get(name) != after.digests.get(name)}
        yield Claim("buffers are as they were", not other, f"{len(other)} of {len(buffers)} changed")
        saved = sum(
            weight.numel() * (getattr(torch, before.dtypes[name]).itemsize - 2) for name, weight in weights.items()
        )
        yield Claim(
            "each weight takes 2 bytes, and all else as many as before",
            after.bytes == before.bytes - saved < before.bytes,
            f"{before.bytes:,} → {after.bytes:,} B",
        )
        seen: set[str] = set()
        hooks = [
            module.register_forward_hook(lambda module, args, output: seen.add(str(output.dtype)))
            for module in work.model.modules()
            if isinstance(module, torch.nn.Linear)
        ]
        work.probe_logits()
        for hook in hooks:
            hook.remove()
        yield Claim(
            f"linear layers give {self.dtype}",
            seen == {str(dtype)},
            f"activations are {', '.join(sorted(seen)) or 'none'}",
        )

    def _nearest(self, before: Snapshot, work: Work, weights: Mapping[str, torch.nn.Parameter]) -> Iterator[Claim]:
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.dtype]
        aside = {
            name: value
            for name, value in work.state.get(self.name, {}).items()
            if before.digests[name] == digest(value)
        }
        same = {name for name, value in aside.items() if torch.equal(value.to(dtype), weights[name].detach().cpu())}
        # Of matrices the products with one vector are known. Rounded to the nearest, a weight is off by half a step at
        # most, and by two fifths of that on average over many.
        vector = {
            columns: projection(torch.eye(columns))
            for columns in {weight.shape[1] for weight in weights.values() if weight.dim() == 2}
        }
        half, least = torch.finfo(dtype).eps / 2, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        far, squares, allowed = 0, 0.0, 0.0
        matrices = weights.keys() & before.projections.keys()
        for name in matrices:
            weight = weights[name].detach().float().cpu()
            along = vector[weight.shape[1]]
            off = (projection(weight) - before.projections[name]).abs()
            limit = weight.abs() @ along.abs()
            far += int((off > 1.01 * half * limit + least * along.abs().sum() + 1e-6 * limit).sum())
            squares += float(off.square().sum())
            allowed += float(weight.square().sum() * along.square().mean()) * half**2
        share = (squares / max(allowed, 1e-300)) ** 0.5
        yield Claim(
            f"every weight is the nearest {self.dtype} to what it was",
            len(same) == len(aside) and aside.keys() | matrices == weights.keys() and not far and share < 0.6,
            f"{len(same)} of {len(aside)} vectors bit by bit; {len(matrices)} matrices, {far} rows of which are off by more "
            f"than rounding, all of them by {share:.2g} of half a step",
        )

    def _dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.dtype == "bf16" else torch.float16
