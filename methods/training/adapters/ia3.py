"""Learned rescaling of activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Le

from bench.plan.context import PlanContext
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, whole_numel
from methods import _added, _peft

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class IA3(Trainer):
    """Train a factor for each key, each value and each feed-forward activation: (IA)³.

    The layers are PEFT's choice for the architecture; of BERT it takes attention's output too, which the paper does
    not. Factors start at 1, and the rate is about how far they go in a step; ten
    times the paper's 3e-3 over 1,000 steps, for short budgets, and is not tuned. Built on PEFT's ``IA3Config``:
    https://huggingface.co/docs/peft/package_reference/ia3
    """

    name = "ia3"
    paper = "https://arxiv.org/abs/2205.05638"
    example = "ia3"
    divisible_by = frozenset({"layers", "replicas", "shards", "tensors"})
    needs = ("peft",)
    adds = frozenset({"adapter", "mergeable"})
    refuses = _peft.REFUSES_BESIDE_LAYERS

    lr: Annotated[float, Gt(0)] = 3e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """PEFT must know the architecture."""
        yield from _peft.problems(context, "IA3")

    def on_model(self, training: Training) -> None:
        """Put the factors on."""
        _peft.attach(training, _peft.config(training, "IA3Config"))

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, each layer has one factor an activation, and a layer's output is rescaled by them."""
        yield from _added.claims(before, work, "ia3_", every=True)
        layers = _peft.layers(work.model, "ia3_l")
        counted = sum(whole_numel(p) for name, p in work.model.named_parameters() if "ia3_" in name)
        formula = sum(layer.in_features if layer.is_feedforward else layer.out_features for layer in layers.values())
        yield Claim("there is one factor an activation", 0 < counted == formula, f"{counted:,} against {formula:,}")
        yield from self._chosen(work, layers)
        errors: list[float] = []
        note = lambda layer, args, output: errors.append(_error(layer, args[0], output))  # noqa: E731
        hooks = [layer.register_forward_hook(note) for layer in layers.values()]
        work.probe_logits()
        for hook in hooks:
            hook.remove()
        worst = max(errors, default=math.inf)
        yield Claim(
            "activations are rescaled by them",
            len(errors) == len(layers) and worst < 1e-2,
            f"relative difference {worst:.1e} in {len(errors)} layers",
        )

    def _chosen(self, work: Training, layers: dict[str, Any]) -> Iterator[Claim]:
        """The layers that PEFT's tables name, of which some by their inputs, and factors that began at 1."""
        from bench.models.architecture import unwrapped

        yield from _peft.adapted(work, layers, "IA3", None)
        yield _peft.told(work)
        yield _added.started(work, "factors began at 1", ".ia3_l.", 1.0)
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as TABLE

        named = TABLE.get(unwrapped(work.model).config.model_type)
        if named is not None:
            inputs = {name for name in layers if any(f".{name}".endswith(f".{target}") for target in named)}
            found = {name for name, layer in layers.items() if layer.is_feedforward}
            text = f"rescaled are the inputs of {', '.join(named)}, and of other layers what they give"
            yield Claim(text, found == inputs != set(), f"inputs of {len(found)} of {len(layers)} layers")


def _error(layer: Any, given: torch.Tensor, output: torch.Tensor) -> float:
    """How far the layer's output is from its base's, with inputs or outputs times the factors."""
    factors, plain = layer.ia3_l["default"].flatten(), layer.base_layer
    wanted = plain(given * factors) if layer.is_feedforward else plain(given) * factors
    return float((output - wanted).norm() / wanted.norm())
