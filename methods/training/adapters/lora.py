"""Low-rank adaptation, and the variants of it that PEFT has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact, Width
from bench.recipe.errors import Refusal
from bench.recipe.method import Trainer
from bench.stage.evidence import Claim, projection, whole, whole_numel
from methods import _added, _peft

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training


@dataclass(frozen=True)
class LoRA(Trainer):
    """Train low-rank updates ``(alpha / r) · B A`` beside frozen weights.

    The best rate of LoRA is about ten times that of full fine-tuning (https://thinkingmachines.ai/blog/lora), hence
    3e-3. ``targets`` are names of linear layers or embeddings; PEFT's choice for the architecture (query and value) otherwise.
    ``alpha`` is twice the rank where it is not given, and 16 for rslora, which holds it while the rank varies.

    Variants: ``rslora`` scales by ``alpha / sqrt(r)``, so that high ranks learn too (https://arxiv.org/abs/2312.03732);
    ``dora`` also learns the length of each output's weights apart from their direction
    (https://arxiv.org/abs/2402.09353); ``pissa`` starts from the r principal directions of each weight, which it takes
    out of the frozen rest (https://arxiv.org/abs/2404.02948). The rate was chosen for plain LoRA. Built on PEFT's
    ``LoraConfig``: https://huggingface.co/docs/peft/package_reference/lora
    """

    name = "lora"
    paper = "https://arxiv.org/abs/2106.09685"
    example = "lora(r=8)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    needs = ("peft",)
    adds = frozenset({"adapter", "mergeable"})

    r: Width = 8
    alpha: Annotated[float, Gt(0)] | None = None
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    targets: tuple[str, ...] | None = None
    variant: Literal["plain", "rslora", "dora", "pissa"] = "plain"
    lr: Annotated[float, Gt(0)] = 3e-3
    share: Annotated[float, Gt(0), Le(1)] = 1.0

    @property
    def refuses(self) -> tuple[tuple[Fact, str], ...]:
        """What no adapter goes beside, and for PiSSA weights that have no singular vectors."""
        if self.variant != "pissa":
            return _peft.REFUSES_BESIDE_LAYERS
        why = "pissa starts from the weights' singular vectors, and quantized weights have none; use another variant"
        return (*_peft.REFUSES_BESIDE_LAYERS, ("quantized", why))

    def problems(self, context: PlanContext) -> Iterator[str]:
        """The layers must be known, and be as the variant needs them."""
        yield from _peft.problems(context, "LORA", targets=self.targets, embeddings=self.variant in ("plain", "rslora"))
        if self.variant in ("dora", "pissa") and "shards" in context.stage.layout:
            yield f"{self.variant} works on whole weights, and here each process holds a shard; use data_parallel, or another variant"
        if self.variant == "dora" and "tensors" in context.stage.layout:
            yield "dora measures the length of whole weights, and here each process holds parts; use data_parallel, or another variant"
        if self.variant == "pissa":
            width = context.config.get("hidden_size")
            if width and self.r > width:
                yield f"weights of {width} outputs have no {self.r} principal directions; lower r"

    def on_model(self, training: Training) -> None:
        """Put the adapter on."""
        from bench.models.examine import targets

        config = _peft.config(
            training,
            "LoraConfig",
            r=self.r,
            lora_alpha=self._alpha,
            lora_dropout=self.dropout,
            target_modules=list(self.targets or targets(training.model, "LORA")),
            use_rslora=self.variant == "rslora",
            use_dora=self.variant == "dora",
            init_lora_weights="pissa" if self.variant == "pissa" else True,
        )
        _peft.attach(training, config)
        if self.variant == "pissa":
            layers = _peft.layers(training.model, "lora_A")
            for name, layer in layers.items():
                if self.r > (least := min(layer.in_features, layer.out_features)):
                    raise Refusal(f"{self.name}: {name} has {least} principal directions, not {self.r}; lower r")
            training.state[self.name] = {  # on the CPU, where it is in no training's memory
                name: tuple(part["default"].weight.detach().cpu().clone() for part in (layer.lora_B, layer.lora_A))
                for name, layer in layers.items()
            }

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The base is frozen, the adapter has the weights and the scale of its formula, and its update is not zero."""
        layers = _peft.layers(work.model, "lora_A") | _peft.layers(work.model, "lora_embedding_A")
        taken = {f"{name}.weight" for name in layers} if self.variant == "pissa" else set()
        yield from _added.claims(before, work, "lora_", taken, every=True)
        counted = sum(whole_numel(p) for name, p in work.model.named_parameters() if "lora_" in name)
        dora = self.variant == "dora"
        sides = [(layer.in_features, layer.out_features) for layer in layers.values()]
        formula = sum(self.r * (wide + high) + dora * high for wide, high in sides)
        yield Claim(
            f"the adapter has r·(in + out){' + out' * dora} weights a layer",
            0 < counted == formula,
            f"{counted:,} against {formula:,}",
        )
        still = [name for name, layer in layers.items() if not layer.get_delta_weight("default").any()]
        yield Claim(
            "every layer's update is not zero",
            bool(layers) and not still,
            f"{len(layers) - len(still)} of {len(layers)}",
        )
        scale = self._alpha / (math.sqrt(self.r) if self.variant == "rslora" else self.r)
        seen = [_scale(layer) for layer in layers.values()]
        yield Claim(
            f"an update is {scale:.4g} times B A",
            bool(seen) and all(abs(found / scale - 1) < 1e-2 for found in seen),
            f"{min(seen, default=math.nan):.4g} to {max(seen, default=math.nan):.4g}",
        )
        yield from self._formed(work, layers, scale)
        if dora:
            errors = [_magnitude_error(layer) for layer in layers.values()]
            worst = max(errors, default=math.inf)
            yield Claim("weights are as long as their magnitudes say", worst < 1e-2, f"relative difference {worst:.1e}")
        if self.variant == "pissa":
            yield from self._residual(before, work, layers)

    def _formed(self, work: Training, layers: dict[str, Any], scale: float) -> Iterator[Claim]:
        """Which layers are adapted, what drops out, where the updates began, and what each layer gives."""

        yield from _peft.adapted(work, layers, "LORA", self.targets)
        yield _peft.dropouts(work, layers, self.dropout)
        yield _peft.told(work)
        if self.variant != "pissa":
            yield _added.started(work, "updates began at zero: B was zero", ".lora_B.", 0.0)

        def wanted(layer: Any, given: torch.Tensor, base: torch.Tensor) -> Any:
            if "default" in layer.lora_embedding_A:
                return base + scale * layer.lora_embedding_A["default"].T[given] @ layer.lora_embedding_B["default"].T
            down, up = layer.lora_A["default"], layer.lora_B["default"]
            if self.variant != "dora":
                return base + scale * up(down(given.to(down.weight.dtype)))
            weight = layer.base_layer.weight.T if layer.fan_in_fan_out else layer.base_layer.weight
            if not weight.is_floating_point() or weight.shape != (layer.out_features, layer.in_features):
                return base + (layer.forward(given) - base)  # packed weights are the magnitudes' claim alone
            if "default" not in layer.lora_magnitude_vector:
                return base * math.nan  # it learns no lengths
            whole = weight + scale * up.weight @ down.weight
            lengths = layer.lora_magnitude_vector["default"].weight / whole.norm(dim=1)
            bias = layer.base_layer.bias
            output = given @ (whole * lengths[:, None]).T
            return output if bias is None else output + bias

        update = "B A in the direction of the whole" if self.variant == "dora" else "B A"
        yield _peft.computed(
            work, layers, f"each adapted layer gives what its base does and {scale:.4g} times {update}", wanted
        )

    @property
    def _alpha(self) -> float:
        return self.alpha or (16 if self.variant == "rslora" else 2 * self.r)

    def _residual(self, before: Snapshot, work: Training, layers: dict[str, Any]) -> Iterator[Claim]:
        import torch

        start: dict[str, tuple[torch.Tensor, torch.Tensor]] = work.state.get(self.name, {})
        left, outside = 0.0, 0.0
        for name, layer in layers.items():
            rest = whole(layer.get_base_layer().weight).detach().float()
            up, down = (part.to(rest.device) for part in start.get(name, (rest[:, :1] * 0, rest[:1] * 0)))
            taken = self._alpha / self.r * up @ down
            values, ours = torch.linalg.svdvals(rest), torch.linalg.svdvals(taken)[: self.r]
            excess = torch.stack([values[-self.r :].max(), values.max() - ours.min()]) / ours.max()
            left = max(left, float(excess.nan_to_num(math.inf).max()))
            pretrained = before.projections.get(f"{name}.weight", torch.zeros(1))
            error = projection(rest + (taken.T if layer.fan_in_fan_out else taken)) - pretrained
            outside = max(outside, float(error.norm() / pretrained.norm()))
        yield Claim(
            f"the adapter started with each weight's {self.r} principal directions, which the frozen rest lacks",
            bool(layers) and left < 1e-4,
            f"of the largest singular value {left:.1e} is left",
        )
        yield Claim(
            "the frozen rest and the adapter's start are the pretrained weight together",
            bool(layers) and outside < 1e-4,
            f"relative difference {outside:.1e}",
        )


def _scale(layer: Any) -> float:
    """How many times as long as ``B A`` the update is that PEFT would fold in."""
    if "default" in layer.lora_A:
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    else:  # an embedding's
        product = layer.lora_embedding_B["default"] @ layer.lora_embedding_A["default"]
    return float((layer.get_delta_weight("default").norm() / product.norm()).detach())


def _magnitude_error(layer: Any) -> float:
    """How far the lengths of a DoRA layer's weights, seen in what it does, are from its magnitudes."""
    import torch

    from bench.models.modes import evaluating

    if "default" not in layer.lora_magnitude_vector:
        return math.inf
    magnitude = layer.lora_magnitude_vector["default"].weight.detach().float()
    with evaluating(layer), torch.no_grad():
        one = torch.eye(layer.in_features, device=magnitude.device)
        lengths = (layer(one) - layer(torch.zeros_like(one))).float().norm(dim=0)
    return float(((lengths - magnitude) / magnitude).abs().max())
