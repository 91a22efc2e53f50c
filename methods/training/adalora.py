"""Low-rank adaptation that moves its ranks to where they matter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from bench.evidence import Claim
from bench.method import Place, Trainer, Width
from methods import _added, _peft

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import ComputeLoss, Training
    from bench.tasks.base import Batch
    from bench.work import Work

_LEAST = 4
"""Steps: two to score, one to prune, one to settle."""


@dataclass(frozen=True)
class AdaLoRA(Trainer):
    """Train low-rank updates ``P Λ Q`` and prune their ranks, from ``init_r`` a layer to ``target_r`` on average.

    Ranks are pruned where they matter least, over all layers together. The schedule follows the training's steps: 15 %
    with all ranks, then fewer and fewer, and the last half with those that are left, about the shares in the paper's
    table of GLUE. Ranks, ``orth_reg_weight`` (what keeps P and Q near orthogonal) and the layers are PEFT's defaults;
    ``alpha`` is twice ``init_r`` where it is not given. The rate is three times LoRA's, for P and Q begin small and Λ at
    zero: on the default model, 60 steps of 16, the accuracy was .57 at 3e-3, .77 at 1e-2 and .78 at 3e-2 (one seed each).
    Built on PEFT's ``AdaLoraConfig``:
    https://huggingface.co/docs/peft/package_reference/adalora
    """

    name = "adalora"
    paper = "https://arxiv.org/abs/2303.10512"
    example = "adalora(init_r=12, target_r=8)"
    needs = ("peft",)
    gives = frozenset({"adapter", "mergeable"})

    init_r: Annotated[int, Ge(2), Le(2**16)] = 12
    target_r: Width = 8
    alpha: Annotated[float, Gt(0)] | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    orth_reg_weight: Annotated[float, Gt(0)] = 0.5
    targets: tuple[str, ...] | None = None
    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, place: Place) -> Iterator[str]:
        """There must be ranks to prune, and steps to do it in."""
        yield from _peft.problems(place, "ADALORA", targets=self.targets)
        if self.target_r >= self.init_r:
            yield f"there is nothing to prune from {self.init_r} ranks to {self.target_r}; raise init_r, or use lora"
        steps = max(1, round(place.steps * self.share))
        if steps < _LEAST:
            yield f"{steps} steps are too few to score ranks, prune them and settle: {_LEAST} at least; raise budget.steps"
        if "early_stopping" in {modifier.name for modifier in place.stage.modifiers}:
            yield "its ranks reach their target on a schedule that early stopping would cut off; leave one of them out"

    def on_model(self, training: Training) -> None:
        """Put the adapter on, with a schedule of the training's own length."""
        steps = training.steps
        final = max(1, steps // 2)
        from bench.models.examine import targets

        config = _peft.config(
            training,
            "AdaLoraConfig",
            init_r=self.init_r,
            target_r=self.target_r,
            lora_alpha=self.alpha or 2 * self.init_r,
            lora_dropout=self.dropout,
            orth_reg_weight=self.orth_reg_weight,
            target_modules=list(self.targets or targets(training.model, "ADALORA")),
            total_step=steps,
            tinit=min(round(0.15 * steps), steps - final - 1),
            tfinal=final,
            deltaT=max(1, steps // 1000),
        )
        _peft.attach(training, config)
        training.notes[self.name] = training.model.base_model

    def on_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the penalty; PEFT adds it only to losses that the model computes itself."""
        model, config = training.model, _peft.active(training.model)
        singular = [(name, p) for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name]

        def penalised(batch: Batch) -> torch.Tensor:
            return compute(batch) + config.orth_reg_weight * _penalty(singular)  # type: ignore[arg-type, no-any-return]

        return penalised

    def on_start(self, training: Training) -> None:
        """Score and prune between the optimizer's step and the end of its gradients."""
        tuner, taken = training.notes[self.name], itertools.count()
        training.optimizer.register_step_post_hook(lambda *step: tuner.update_and_allocate(next(taken)))

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """As PEFT does it, which takes a layer that is left with no rank for a mistake, and says so."""
        if not hasattr(model, "peft_config"):
            return False
        with _peft.quiet():
            model.save_pretrained(folder)  # type: ignore[operator]
        return True

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The base is bit-identical, the ranks fell to their target, and the loss holds the penalty."""
        import torch

        from bench.loop import Training
        from bench.work import evaluating

        assert isinstance(work, Training)
        yield from _added.claims(before, work, "lora_")
        layers = _peft.layers(work.model, "lora_E")
        counted = sum(p.numel() for name, p in work.model.named_parameters() if "lora_" in name)
        formula = sum(self.init_r * (layer.in_features + layer.out_features + 1) for layer in layers.values())
        yield Claim(
            "the adapter has init_r·(in + out + 1) weights a layer",
            0 < counted == formula,
            f"{counted:,} against {formula:,}",
        )
        ranks = {name: int(torch.count_nonzero(layer.lora_E["default"])) for name, layer in layers.items()}
        begun, target = self.init_r * len(layers), self.target_r * len(layers)
        yield Claim(
            f"of {begun} ranks {target} are left",
            bool(ranks) and sum(ranks.values()) == target,
            f"{sum(ranks.values())}: {', '.join(map(str, ranks.values()))}",
        )
        config = _peft.active(work.model)
        pattern = [sum(kept) for kept in (getattr(config, "rank_pattern", None) or {}).values()]
        yield Claim("they are those that the adapter will be saved with", pattern == [*ranks.values()], f"{pattern}")
        singular = [
            (part, getattr(layer, part)["default"]) for layer in layers.values() for part in ("lora_A", "lora_B")
        ]
        with evaluating(work.model):
            seen = _loss(work) - _loss_without(work, config)
        penalty = self.orth_reg_weight * float(_penalty(singular).detach()) if singular else 0.0
        yield Claim("the loss holds the penalty", seen > 0.9 * penalty > 0, f"{seen:.4g} of {penalty:.4g}")


def _penalty(singular: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """The mean over all P and Q, which PEFT calls B and A, of how far ``Pᵀ P`` and ``Q Qᵀ`` are from the identity."""
    import torch

    squares = [p @ p.T if "lora_A" in name else p.T @ p for name, p in singular]
    eye = torch.eye(len(squares[0]), device=squares[0].device, dtype=squares[0].dtype)
    return torch.stack([torch.linalg.matrix_norm(square - eye) for square in squares]).mean()


def _loss(work: Training) -> float:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(work.seed)
        return float(work.loss(work.probe).detach())


def _loss_without(work: Training, config: Any) -> float:
    if config is None:
        return _loss(work)
    weight, config.orth_reg_weight = config.orth_reg_weight, 0.0
    try:
        return _loss(work)
    finally:
        config.orth_reg_weight = weight
