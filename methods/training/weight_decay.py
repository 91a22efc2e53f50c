"""Weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from bench.evidence import Claim
from bench.method import Modifier

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


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
    across = frozenset({"devices", "layers", "replicas", "shards", "tensors"})
    order = -10  # before the optimizer is made of the groups

    weight_decay: Annotated[float, Ge(0)]

    def on_optimizer(self, training: Training) -> None:
        """Part the groups in two."""
        training.optimizer_options["weight_decay"] = self.weight_decay
        parted = []
        for group in training.groups:
            matrices = [parameter for parameter in group["params"] if parameter.dim() >= 2]
            vectors = [parameter for parameter in group["params"] if parameter.dim() < 2]
            parted += [{**group, "params": matrices}] if matrices else []
            parted += [{**group, "params": vectors, "weight_decay": 0.0}] if vectors else []
        training.groups = parted

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The optimizer holds each trained matrix in a group that decays, and each vector in one that does not."""
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
