"""Weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from bench.recipe.method import Modifier
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training
    from bench.stage.work import Work


@dataclass(frozen=True)
class WeightDecay(Modifier):
    """Decay weights towards zero at each step, but for vectors: biases and the scales of norms.

    What has at least two dimensions decays, which is transformers' rule in fewer words. Adam and SGD add
    ``weight_decay`` times the weight to the gradient, all the other optimizers take it off the weight. Without this
    method the optimizer's own default holds for all, 0.01 in AdamW; ``weight_decay(0.0)`` turns that off.
    """

    name = "weight_decay"
    paper = "https://arxiv.org/abs/1711.05101"
    example = "full + weight_decay(0.1)"
    divisible_by = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = -10  # before the optimizer is made of the groups

    weight_decay: Annotated[float, Ge(0)]

    def make_optimizer(self, training: Training) -> None:
        """Part the groups in two."""
        training.optimizer_options["weight_decay"] = self.weight_decay
        parted = []
        for group in training.groups:
            matrices = [parameter for parameter in group["params"] if parameter.dim() >= 2]
            vectors = [parameter for parameter in group["params"] if parameter.dim() < 2]
            parted += [{**group, "params": matrices}] if matrices else []
            parted += [{**group, "params": vectors, "weight_decay": 0.0}] if vectors else []
        training.groups = parted

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """Each trained matrix is in a group that decays, each vector in one that does not, and a step shows it."""
        groups = work.optimizer.param_groups  # type: ignore[attr-defined]
        decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        trained: list[torch.nn.Parameter] = work.parameters  # type: ignore[attr-defined]
        wrong = [p for p in trained if decays.get(id(p)) != (self.weight_decay if p.dim() >= 2 else 0.0)]
        matrices = sum(parameter.dim() >= 2 for parameter in trained)
        yield Claim(
            f"matrices decay by {self.weight_decay:g} and vectors do not",
            bool(trained) and not wrong,
            f"{matrices} matrices, {len(trained) - matrices} vectors, {len(wrong)} at another rate",
        )
        yield from self._shown(work)

    def _shown(self, work: Work) -> Iterator[Claim]:
        """One step with decay and one without, of no gradient, differ by the decay of each weight alone."""
        import torch

        from methods import _updates

        # Adam divides what is in its gradient by the gradient's size, so of it there is no such formula.
        if any(getattr(modifier, "optimizer", None) == "adam" for modifier in work.stage.modifiers):
            return
        rate = 0.1
        with_it, _ = _updates.moves(work, torch.zeros_like, lr=rate)
        without, _ = _updates.moves(work, torch.zeros_like, lr=rate, weight_decay=0.0)
        wrong, worst = 0, 0.0
        for parameter, one, other in zip(work.parameters, with_it, without, strict=True):
            decay = self.weight_decay * rate if parameter.dim() >= 2 else 0.0
            was = parameter.detach().float()
            error = float(((one - other).float() + decay * was).abs().max()) if was.numel() else 0.0
            # What rounding makes of a weight that has moved.
            size = float((was.abs() + one.abs().float()).max()) if was.numel() else 0.0
            wrong += error > 4e-7 * size + 1e-2 * decay * size
            worst = max(worst, error)
        yield Claim(
            f"a step takes the rate times {self.weight_decay:g} of each matrix off it, whatever the gradient",
            not wrong,
            f"{len(work.parameters) - wrong} of {len(work.parameters)} tensors, off by {worst:.1e} at most",
        )
