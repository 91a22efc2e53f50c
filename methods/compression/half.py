"""Half-precision weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.evidence import Claim
from bench.method import Place, Transform

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.work import Work


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
    gives = frozenset({"half"})

    dtype: Literal["bf16", "fp16"] = "bf16"

    def problems(self, place: Place) -> Iterator[str]:
        """It casts plain weights."""
        if "adapter" in place.facts:
            yield f"there is an adapter on the weights; {place.fold(self)}"
        if "quantized" in place.facts:
            yield "the weights are in fewer bits than 16 already; leave one of the two out"

    def apply(self, work: Work) -> None:
        """Cast."""
        dtype = self._dtype()
        for parameter in work.model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """Every weight has the dtype, all bytes are accounted for, and a real activation has the dtype too."""
        import torch

        dtype, after = self._dtype(), work.after
        weights = dict(work.model.named_parameters())
        held = {str(weight.dtype) for weight in weights.values() if weight.is_floating_point()}
        yield Claim(f"every weight is {self.dtype}", held == {str(dtype)}, ", ".join(sorted(held)))
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

    def _dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.dtype == "bf16" else torch.float16
