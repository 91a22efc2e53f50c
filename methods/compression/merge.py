"""Folding an adapter into the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.evidence import Claim
from bench.method import Place, Transform

if TYPE_CHECKING:
    from bench.evidence import Snapshot
    from bench.work import Work


@dataclass(frozen=True)
class Merge(Transform):
    """Fold a LoRA adapter into the weights it stands beside: no cost in inference, no base to ship it with.

    Built on PEFT's ``merge_and_unload``: https://huggingface.co/docs/peft/developer_guides/lora#merge-lora-weights-into-the-base-model
    """

    name = "merge"
    paper = "https://arxiv.org/abs/2106.09685"
    example = "lora(r=8) >> merge"
    needs = ("peft",)
    takes = frozenset({"adapter", "mergeable"})

    def problems(self, place: Place) -> Iterator[str]:
        """There must be an adapter, of a kind that is a change of weights."""
        if "adapter" not in place.facts:
            yield "there is no adapter to fold; it comes after one, as in `lora(r=8) >> merge`"
        elif "mergeable" not in place.facts:
            yield "the adapter before it is not a change of weights and cannot be folded into them; leave merge out"
        if "quantized" in place.facts:
            yield (
                "the weights beneath are quantized, and rounding what it folds in would lose most of it; "
                "leave the adapter on, or quantize after folding, as in `lora >> merge >> nf4`"
            )

    def apply(self, work: Work) -> None:
        """Fold."""
        work.model = work.model.merge_and_unload()  # type: ignore[operator]

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """No adapter module is left, and the outputs are those of the unmerged model."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        left = [name for name, module in work.model.named_modules() if isinstance(module, BaseTunerLayer)]
        peft_left = hasattr(work.model, "peft_config")
        yield Claim("no adapter is left", not left and not peft_left, f"{len(left)} adapter modules")
        assert before.logits is not None
        assert work.after.logits is not None
        error = float((before.logits - work.after.logits).abs().max() / before.logits.abs().max())
        yield Claim(
            "merged equals unmerged to 1e-4",
            error <= 1e-4,
            f"largest difference of logits {error:.1e} of the largest logit",
        )
