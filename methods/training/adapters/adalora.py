"""Low-rank adaptation that moves its ranks to where they matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Width
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim
from methods import _added, _peft

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeLoss, Training
    from bench.tasks.base import Batch

_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
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
    adds = frozenset({"adapter", "mergeable"})
    traits = frozenset({"one_pass", "prunes_ranks"})
    refuses = _peft.REFUSES_BESIDE_LAYERS
    refuses_beside = (
        (
            "stops_early",
            "its ranks reach their target on a schedule that early stopping would cut off; leave one of them out",
        ),
    )

    init_r: Annotated[int, Ge(2), Le(2**16)] = 12
    target_r: Width = 8
    alpha: Annotated[float, Gt(0)] | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    orth_reg_weight: Annotated[float, Gt(0)] = 0.5
    targets: tuple[str, ...] | None = None
    lr: Annotated[float, Gt(0)] = 1e-2
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    def problems(self, context: PlanContext) -> Iterator[str]:
        """There must be ranks to prune, and steps to do it in."""
        yield from _peft.problems(context, "ADALORA", targets=self.targets)
        if self.target_r >= self.init_r:
            yield f"there is nothing to prune from {self.init_r} ranks to {self.target_r}; raise init_r, or use lora"
        steps = max(1, round(context.steps * self.share))
        if steps < _LEAST:
            yield f"{steps} steps are too few to score ranks, prune them and settle: {_LEAST} at least; raise budget.steps"

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
        for name, parameter in training.model.named_parameters():
            if ".ranknum." in name:  # a count, which PEFT makes trainable when it moves it to a GPU or to another type
                parameter.requires_grad_(False)
        training.state[self.name] = _Tuner(training.model.base_model)

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Add the penalty; PEFT adds it only to losses that the model computes itself."""
        model, config = training.model, _peft.active(training.model)
        singular = [(name, p) for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name]

        def penalised(batch: Batch) -> torch.Tensor:
            return compute(batch) + config.orth_reg_weight * _penalty(singular)  # type: ignore[arg-type, no-any-return]

        return penalised

    def on_start(self, training: Training) -> None:
        """Score and prune between the optimizer's step and the end of its gradients."""
        tuner = training.state[self.name].model
        seen = training.state[f"{self.name} importance"] = _Importance()
        training.optimizer.register_step_post_hook(lambda *step: seen.look(training))
        training.optimizer.register_step_post_hook(lambda *step: tuner.update_and_allocate(seen.steps - 1))

    def on_step_end(self, training: Training) -> None:
        """Keep the scores by which ranks are pruned, for the evidence."""
        seen: _Importance = training.state.get(f"{self.name} importance", _Importance())
        if (tuner := training.state.get(self.name)) is not None:
            seen.score(dict(tuner.model.rankallocator.ipt), training.steps - max(1, training.steps // 2))
            layers = _peft.layers(training.model, "lora_E").values()
            seen.left.append(sum(int(layer.lora_E["default"].count_nonzero()) for layer in layers))

    def save(self, model: torch.nn.Module, folder: Path) -> bool:
        """As PEFT does it, which takes a layer that is left with no rank for a mistake, and says so."""
        if not hasattr(model, "peft_config"):
            return False
        with _peft.quiet():
            model.save_pretrained(folder)  # type: ignore[operator]
        return True

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is bit-identical, the ranks fell to their target, and the loss holds the penalty."""
        import torch

        yield from _added.claims(before, work, "lora_", every=True)
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
        yield from _peft.adapted(work, layers, "ADALORA", self.targets)
        yield _peft.dropouts(work, layers, self.dropout)
        yield _peft.told(work)
        yield _added.started(work, "updates began at zero: Λ was zero", ".lora_E.", 0.0)
        yield self._kept(work, layers)
        yield self._curve(work, begun, target)
        scale = (self.alpha or 2 * self.init_r) / self.init_r

        def wanted(layer: Any, given: torch.Tensor, base: torch.Tensor) -> Any:
            down, values, up = (getattr(layer, f"lora_{part}")["default"] for part in "AEB")
            return base + scale * ((given.to(down.dtype) @ down.T) * values.flatten()) @ up.T

        yield _peft.computed(
            work, layers, f"each adapted layer gives what its base does and {scale:.4g} times P Λ Q", wanted
        )
        yield from self._penalised(work, layers, config)

    def _kept(self, work: Training, layers: dict[str, Any]) -> Claim:
        """That the ranks which are left had the highest scores, computed from what each step gave."""
        import torch

        seen: _Importance = work.state.get(f"{self.name} importance", _Importance())
        text = "of all ranks those with the highest importance are left, by the products of weights and gradients"
        scores = {name: average * seen.uncertainty[name] for name, average in seen.average.items()}
        of_ranks: dict[str, torch.Tensor] = {}
        for name in layers:
            own = {
                part: [scores[key] for key in scores if plain(key) == f"{name}.lora_{part}.default"] for part in "AEB"
            }
            if any(len(found) != 1 for found in own.values()):
                return Claim(text, False, f"no step scored {name}")
            parts = own["E"][0].flatten(), own["A"][0].mean(1), own["B"][0].mean(0)
            of_ranks[name] = torch.stack(parts).sum(0)
        flat = torch.cat([*of_ranks.values()])
        left = torch.cat([layer.lora_E["default"].detach().flatten() != 0 for layer in layers.values()])
        lowest, highest = flat[left].min(), flat[~left].max() if bool((~left).any()) else flat.min()
        return Claim(
            text,
            seen.first_error < 1e-5 and bool(lowest >= highest * (1 - 1e-5)),
            f"the lowest that is left scored {float(lowest):.3g}, the highest that is not {float(highest):.3g}; "
            f"the first step's products are off by {seen.first_error:.1e}",
        )

    def _curve(self, work: Training, begun: int, target: int) -> Claim:
        """That after each step as many ranks were left as the paper's cubic curve says."""
        seen: _Importance = work.state.get(f"{self.name} importance", _Importance())
        settles = work.steps - max(1, work.steps // 2)
        waits = min(round(0.15 * work.steps), settles - 1)
        wanted = []
        for step in range(len(work.losses)):
            way = min(1.0, max(0, step - waits) / (settles - waits))
            wanted.append(int((begun - target) * (1 - way) ** 3 + target))
        right = sum(found == count for found, count in zip(seen.left, wanted, strict=False))
        return Claim(
            "after each step as many ranks were left as the schedule says",
            len(seen.left) == len(wanted) == right,
            f"after {right} of {len(wanted)}; {', '.join(map(str, seen.left[:12]))}",
        )

    def _penalised(self, work: Training, layers: dict[str, Any], config: Any) -> Iterator[Claim]:
        """The loss with the penalty less the loss without, and so the gradient, against the formula."""
        import torch

        from bench.models.modes import evaluating

        factors = [layer.lora_A["default"] for layer in layers.values()]
        factors += [layer.lora_B["default"] for layer in layers.values()]
        penalty = torch.zeros((), device=work.device)
        for number, factor in enumerate(factors):
            rows = factor if number < len(layers) else factor.T
            apart = rows @ rows.T - torch.eye(len(rows), device=rows.device)
            penalty = penalty + self.orth_reg_weight * apart.square().sum().sqrt() / len(factors)
        wanted = torch.autograd.grad(penalty, factors)
        with evaluating(work.model):
            (loss, ours), (without, theirs) = (
                _loss_and_gradient(work, factors, config, weight) for weight in (None, 0.0)
            )
        seen, expected = loss - without, float(penalty.detach())
        yield Claim(
            "the loss holds the penalty",
            abs(seen - expected) <= 1e-2 * expected + 1e-5 * abs(loss),
            f"{seen:.4g} of {expected:.4g}",
        )
        wrong = 0
        for with_it, plainly, formula in zip(ours, theirs, wanted, strict=True):
            error = float((with_it - plainly - formula).norm())
            wrong += error > 2e-2 * float(formula.norm()) + 1e-5 * float(plainly.norm())
        yield Claim("and its gradient, at each P and Q", not wrong, f"{len(factors) - wrong} of {len(factors)} tensors")


@dataclass(frozen=True)
class _Tuner:
    """PEFT's model around the base, which keeps scores and ranks where no state dict has them."""

    model: Any

    def state_dict(self) -> dict[str, Any]:
        """The scores, and which ranks are left."""
        allocator = self.model.rankallocator
        return {name: getattr(allocator, name) for name in _SCORES} | {"ranks": self._config.rank_pattern}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them from another process."""
        for name in _SCORES:
            setattr(self.model.rankallocator, name, state[name])
        self._config.rank_pattern = state["ranks"]

    @property
    def _config(self) -> Any:
        return self.model.peft_config[self.model.trainable_adapter_name]


@dataclass
class _Importance:
    """The moving averages of the products of weights and gradients, and of how far these are from them.

    ``left`` counts the ranks that are left after each step; ``first`` are those of the first step as they were seen beside PEFT, and ``first_error`` how far PEFT's are off.
    """

    steps: int = 0
    scored: int = 0
    left: list[int] = field(default_factory=list)
    first: dict[str, torch.Tensor] = field(default_factory=dict)
    first_error: float = math.inf
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    uncertainty: dict[str, torch.Tensor] = field(default_factory=dict)

    def look(self, training: Training) -> None:
        """After an update, before anything is pruned; gradients are there."""
        self.steps += 1
        if self.steps == 1:
            for name, parameter in training.state[AdaLoRA.name].model.model.named_parameters():
                if "lora_" in name and parameter.grad is not None:
                    self.first[name] = (parameter.detach() * parameter.grad).abs()

    def score(self, products: dict[str, torch.Tensor], until: int) -> None:
        """Outside of the clock, with PEFT's products of this step; the paper's betas are .85."""
        if self.steps == self.scored or self.steps > until:
            return
        self.scored = self.steps
        if self.steps == 1 and self.first.keys() == products.keys():
            errors = [float((self.first[name] - found).norm()) for name, found in products.items()]
            size = sum(float(found.norm()) for found in self.first.values())
            self.first_error = sum(errors) / size if size else math.inf
        for name, product in products.items():
            average = self.average.get(name, product * 0)
            self.average[name] = average = 0.85 * average + 0.15 * product
            apart = (product - average).abs()
            self.uncertainty[name] = 0.85 * self.uncertainty.get(name, apart * 0) + 0.15 * apart


def _penalty(singular: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """The mean over all P and Q, which PEFT calls B and A, of how far ``Pᵀ P`` and ``Q Qᵀ`` are from the identity."""
    import torch

    squares = [p @ p.T if "lora_A" in name else p.T @ p for name, p in singular]
    eye = torch.eye(len(squares[0]), device=squares[0].device, dtype=squares[0].dtype)
    return torch.stack([torch.linalg.matrix_norm(square - eye) for square in squares]).mean()


def _loss_and_gradient(
    work: Training, factors: list[torch.Tensor], config: Any, weight: float | None
) -> tuple[float, list[torch.Tensor]]:
    """On the probe batch, with another weight of the penalty where one is given."""
    import torch

    own = getattr(config, "orth_reg_weight", None)
    if weight is not None and config is not None:
        config.orth_reg_weight = weight
    try:
        with torch.random.fork_rng():
            torch.manual_seed(work.seed)
            loss = work.loss(work.probe)
        gradients = torch.autograd.grad(loss, factors, allow_unused=True)
    finally:
        if config is not None:
            config.orth_reg_weight = own
    return float(loss.detach()), [g if g is not None else p * 0 for g, p in zip(gradients, factors, strict=True)]
