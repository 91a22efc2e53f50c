"""Low-rank adaptation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from bench.evidence import Claim
from bench.method import Place, Trainer
from methods import _peft

if TYPE_CHECKING:
    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


@dataclass(frozen=True)
class LoRA(Trainer):
    """Train low-rank updates ``(alpha / r) · B A`` beside frozen weights.

    The best rate of LoRA is about ten times that of full fine-tuning (https://thinkingmachines.ai/blog/lora), hence
    3e-3. ``targets`` are names of linear layers; PEFT's choice for the architecture (query and value) otherwise.
    ``alpha`` is twice the rank where it is not given. Built on PEFT's ``LoraConfig``.
    """

    name = "lora"
    paper = "https://arxiv.org/abs/2106.09685"
    example = "lora(r=8)"
    needs = ("peft",)
    gives = frozenset({"adapter", "mergeable"})

    r: Annotated[int, Ge(1)] = 8
    alpha: Annotated[float, Gt(0)] | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    targets: tuple[str, ...] | None = None
    lr: Annotated[float, Gt(0)] = 3e-3
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, place: Place) -> Iterator[str]:
        """One adapter at a time, on a model that gradients can flow through."""
        yield from _peft.problems(place)

    def on_model(self, training: Training) -> None:
        """Put the adapter on."""
        _peft.attach(
            training,
            "LoraConfig",
            r=self.r,
            lora_alpha=self.alpha or 2 * self.r,
            lora_dropout=self.dropout,
            target_modules=list(self.targets) if self.targets else None,
        )

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The base is bit-identical, the adapter has r·(in + out) weights a layer, and its update is not zero."""
        yield from _peft.claims(before, work, "lora_")
        layers = [module for module in work.model.modules() if hasattr(module, "lora_A") and len(module.lora_A)]  # type: ignore[arg-type]
        counted = sum(p.numel() for name, p in work.model.named_parameters() if "lora_" in name)
        formula = sum(self.r * (layer.in_features + layer.out_features) for layer in layers)  # type: ignore[operator]
        yield Claim("the adapter has r·(in + out) weights a layer", 0 < counted == formula, f"{counted:,} against {formula:,}")
        still = [layer for layer in layers if not layer.get_delta_weight("default").any()]  # type: ignore[operator]
        yield Claim("every layer's update is not zero", bool(layers) and not still, f"{len(layers) - len(still)} of {len(layers)}")
