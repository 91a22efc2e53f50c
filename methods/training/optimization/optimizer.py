"""The choice of optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from bench.plan.context import PlanContext
from bench.recipe.errors import Refusal
from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training

_MOMENTUM = {"sgd": 0.9, "sgd_8bit": 0.9, "muon": 0.95}
_ADAM = {"exp_avg", "exp_avg_sq"}
_STATES = {"adamw_8bit": 2, "lion_8bit": 1, "sgd_8bit": 1}
_BLOCK = 256
"""Elements that share a scale in bitsandbytes' 8-bit states."""


@dataclass(frozen=True)
class Optimizer(Modifier):
    """Train with another optimizer than fused AdamW, at the trainer's learning rate or at one given here.

    The others want other rates than Adam's: SGD a far higher one, as in ``full + optimizer("sgd", lr=0.05)``; Lion one
    3 to 10 times lower; Adafactor's is relative to each weight's own size, 1e-2 in torch. Muon updates the matrices
    inside the blocks, with AdamW's rate (``adjust_lr_fn="match_rms_adamw"``), and AdamW the rest. ``momentum`` is for
    SGD and Muon: 0.9, which is common, and 0.95, which is torch's. All else is at the libraries' defaults: Muon decays
    weights by 0.1, AdamW by 0.01, the others do not.

    The 8-bit ones keep their state in 8 bits for tensors of at least ``min_8bit_size`` elements; 4096 is
    bitsandbytes' default. A training of no tensor of that size is refused when it is put together, as the sizes are
    known from then on; so is Muon for one of no matrix inside the blocks. Built on ``torch.optim``
    (https://docs.pytorch.org/docs/stable/optim.html) and, for Lion and 8 bits, on
    https://huggingface.co/docs/bitsandbytes/optimizers
    """

    name = "optimizer"
    paper = "https://arxiv.org/abs/2110.02861"
    example = 'full + optimizer("adamw_8bit")'
    divisible_by = frozenset({"devices", "layers", "replicas", "tensors"})
    needs = ("bitsandbytes",)

    optimizer: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon", "sgd_8bit", "adamw_8bit", "lion_8bit"]
    lr: Annotated[float, Gt(0)] | None = None
    momentum: Annotated[float, Ge(0), Lt(1)] | None = None
    min_8bit_size: Annotated[int, Ge(1)] = 4096

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Momentum is for some, and Muon for what has matrices inside the blocks."""
        if self.momentum is not None and self.optimizer not in _MOMENTUM:
            yield f"{self.optimizer} takes no momentum; leave it out"
        if self.optimizer == "sgd_8bit" and self.momentum == 0:
            yield 'without momentum there is no state to keep in 8 bits; use optimizer("sgd", momentum=0.0)'
        if self.optimizer in ("adafactor", "muon", *_STATES) and "tensors" in context.stage.layout:
            yield f"{self.optimizer} works on whole weights, and here each process holds parts; use adamw, adam, sgd or lion"
        trainer = context.stage.main.name
        if self.optimizer == "muon" and trainer in ("head", "bitfit", "ia3", "prefix", "prompt"):
            yield f"muon updates matrices inside the blocks, and {trainer} trains none; use another optimizer"

    def make_optimizer(self, training: Training) -> torch.optim.Optimizer:
        """Make it."""

        options = dict(training.optimizer_options)
        if self.lr is not None:
            options["lr"] = self.lr
        if self.optimizer == "muon":
            return self._muon(training, options)
        if self.optimizer in _MOMENTUM:
            options["momentum"] = self._momentum
        if self.optimizer in ("sgd", "adam", "adamw"):
            options["fused"] = True
        if self.optimizer in _STATES:
            options["min_8bit_size"] = self.min_8bit_size
            if not any(map(self._large, training.parameters)):
                largest = max(parameter.numel() for parameter in training.parameters)
                raise Refusal(
                    f"{self.name}: {self.optimizer} keeps the state of tensors of {self.min_8bit_size:,} elements and more "
                    f"in 8 bits, and the largest that {training.trainer.name} trains has {largest:,}; lower "
                    f'min_8bit_size, or use optimizer("{self.optimizer.removesuffix("_8bit")}")'
                )
        made: torch.optim.Optimizer = _class(self.optimizer)(training.groups, **options)
        return made

    def _muon(self, training: Training, options: dict[str, Any]) -> torch.optim.Optimizer:
        import torch

        matrices = _matrices(training)
        groups: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
        for group in training.groups:
            for part, inside in zip(groups, (True, False), strict=True):
                if members := [parameter for parameter in group["params"] if (parameter in matrices) is inside]:
                    part.append({**group, "params": members})
        if not groups[0]:
            raise Refusal(
                f"{self.name}: muon updates matrices inside the blocks, and {training.trainer.name} trains none; "
                "use another optimizer"
            )
        parts = [torch.optim.Muon(groups[0], momentum=self._momentum, adjust_lr_fn="match_rms_adamw", **options)]
        parts += [torch.optim.AdamW(groups[1], fused=True, **options)] if groups[1] else []  # type: ignore[list-item]
        made: torch.optim.Optimizer = _together()(parts)
        return made

    @property
    def _momentum(self) -> float:
        return _MOMENTUM[self.optimizer] if self.momentum is None else self.momentum

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The optimizer at work is of the class and rate, keeps what the class keeps, and its step is the formula's."""
        import torch

        found = work.optimizer
        parts = getattr(found, "parts", [found])
        rest = sum(len(group["params"]) for group in found.param_groups) > len(_matrices(work))
        wanted = [_class(self.optimizer), *([torch.optim.AdamW] if self.optimizer == "muon" and rest else [])]
        rate = work.trainer.lr if self.lr is None else self.lr
        yield Claim(
            f"{' and '.join(cls.__name__ for cls in wanted)} made the updates, at a rate of {rate:g}",
            [type(part) for part in parts] == wanted and all(part.defaults["lr"] == rate for part in parts),
            ", ".join(f"{type(part).__name__} at {part.defaults['lr']:g}" for part in parts),
        )
        inside = _matrices(work)
        wrong = 0
        for parameter, state in found.state.items():
            keys = {key for key, value in state.items() if torch.is_tensor(value) and value.dim()}
            wrong += keys != self._keeps(parameter, parameter in inside)
        stateless = self.optimizer == "sgd" and self._momentum == 0
        yield Claim(
            "the state of each tensor is what it keeps",
            not wrong and bool(found.state) is not stateless,
            f"{wrong} of {len(found.state)} tensors have another",
        )
        yield self._steps(work)
        if self.optimizer in _STATES:
            yield from self._eight_bits(found)

    def _steps(self, work: Training) -> Claim:
        """One more step of each tensor, from its state and with a gradient drawn here, against the formula written out."""
        import torch

        from methods import _updates
        from methods.training.optimization._shared import step_formulas

        # A step of SGD is as long as its gradient, and rounding must not hide it.
        rate = 100.0 if self.optimizer in ("sgd", "sgd_8bit") else 0.01
        random = torch.Generator(work.device).manual_seed(work.seed)
        before = work.optimizer.state
        given: dict[torch.Tensor, torch.Tensor] = {
            p: step_formulas.size(before.get(p, {}), p) * torch.randn(p.shape, generator=random, device=p.device)
            for p in work.parameters
        }
        moves, after = _updates.moves(work, lambda parameter: given[parameter].to(parameter.dtype), lr=rate)
        inside = {id(p) for model in (work.model, *work.beside) for p in _in_blocks(model)}
        decaying = [m.weight_decay for m in work.stage.modifiers if hasattr(m, "weight_decay")]
        stateless = self.optimizer == "sgd" and self._momentum == 0
        wrong, worst, of = 0, 0.0, 0
        for parameter, move in zip(work.parameters, moves, strict=True):
            if not parameter.numel() or (parameter not in before and not stateless):
                continue  # another process holds it, or no gradient has reached it
            muon = self.optimizer == "muon" and parameter.dim() == 2 and id(parameter) in inside
            name = "adamw" if self.optimizer == "muon" and not muon else self.optimizer
            usual = step_formulas.DECAY.get(name, 0.0)
            decay = (decaying[0] if parameter.dim() >= 2 else 0.0) if decaying else usual
            momentum = step_formulas.MOMENTUM.get(name, 0.0) if self.momentum is None else self.momentum
            options = {"rate": rate, "decay": decay, "momentum": momentum}
            try:
                wanted, moment = step_formulas.step(
                    name, parameter.detach(), given[parameter], before.get(parameter, {}), **options
                )
                error = float((move.float() - wanted).norm() / wanted.norm())
                kept = (
                    None if moment is None else after[parameter].get("state1", after[parameter].get("momentum_buffer"))
                )
                if kept is not None and moment is not None and kept.dtype != torch.uint8:
                    error = max(error, float((kept - moment).norm() / moment.norm()))
            except KeyError:  # its state is another optimizer's
                error = math.inf
            # Muon's products are of bf16.
            limit = 0.1 if muon else 1e-2 if self.optimizer in _STATES else 2e-3
            wrong, worst, of = wrong + (error > limit), max(worst, error), of + 1
        return Claim(
            f"a step of {self.optimizer} from its state moves each tensor by the formula",
            of > 0 and not wrong,
            f"{of - wrong} of {of}, relative difference {worst:.1e} at most",
        )

    def _keeps(self, parameter: torch.Tensor, inside: bool) -> set[str]:
        """Names of the tensors that this optimizer keeps for `parameter`."""
        match self.optimizer:
            case "sgd":
                return {"momentum_buffer"} if self._momentum else set()
            case "muon":
                return {"momentum_buffer"} if inside else _ADAM
            case "adafactor":
                return {"row_var", "col_var"} if parameter.dim() > 1 else {"variance"}
            case "adam" | "adamw":
                return _ADAM
            case "lion":
                return {"state1"}
        kinds = ("state", "absmax", "qmap") if self._large(parameter) else ("state",)
        return {f"{kind}{number + 1}" for kind in kinds for number in range(_STATES[self.optimizer])}

    def _large(self, parameter: torch.Tensor) -> bool:
        """Whether `parameter` is large enough for a state of 8 bits."""
        return parameter.numel() >= self.min_8bit_size

    def _eight_bits(self, found: torch.optim.Optimizer) -> Iterator[Claim]:
        import torch

        from bench.measure.memory import optimizer_bytes

        states = _STATES[self.optimizer]
        small = {p for p, state in found.state.items() if state.get("state1", p).dtype == torch.uint8}
        wanted = {p for p in found.state if self._large(p)}
        yield Claim(
            f"tensors of {self.min_8bit_size:,} elements and more have a state of 8 bits, and there are some",
            bool(wanted) and small == wanted,
            f"{len(wanted)} of {len(found.state)} are that large, {len(small)} have one",
        )
        # A byte an element and a scale a block, or four bytes; one table of 256 codes for each kind of state.
        each = [p.numel() + 4 * math.ceil(p.numel() / _BLOCK) if p in wanted else 4 * p.numel() for p in found.state]
        formula = states * (sum(each) + (4 * 256 if wanted else 0))
        seen = optimizer_bytes(found)
        yield Claim("the state takes the bytes of the formula", seen == formula, f"{seen:,} B against {formula:,} B")


def _class(name: str) -> Any:
    import torch

    match name:
        case "lion" | "lion_8bit" | "adamw_8bit" | "sgd_8bit":
            from bench.models.packed import bitsandbytes

            names = {"lion": "Lion", "lion_8bit": "Lion8bit", "adamw_8bit": "AdamW8bit", "sgd_8bit": "SGD8bit"}
            return getattr(bitsandbytes.optim, names[name])
        case "muon":
            return torch.optim.Muon
        case "adafactor":
            return torch.optim.Adafactor
    return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]


def _in_blocks(model: Any) -> Iterator[Any]:
    from bench.models.architecture import blocks

    for block in blocks(model):
        yield from block.parameters()


def _matrices(training: Training) -> set[torch.nn.Parameter]:
    """The matrices inside the blocks, of those that train."""
    from bench.models.architecture import blocks

    held = (block for model in (training.model, *training.beside) for block in blocks(model))
    return {p for block in held for p in block.parameters() if p.dim() == 2 and p.requires_grad}


@functools.cache
def _together() -> Any:
    import torch

    class Together(torch.optim.Optimizer):
        """Several optimizers as one: their groups are its groups, and their states its state."""

        def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
            super().__init__([group for part in parts for group in part.param_groups], {})
            self.parts = parts
            for part in parts:
                part.state = self.state

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for part in self.parts:
                part.step()

    return Together
