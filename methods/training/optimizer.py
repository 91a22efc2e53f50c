"""The choice of optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from bench.evidence import Claim
from bench.method import Modifier

if TYPE_CHECKING:
    import torch

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


@dataclass(frozen=True)
class Optimizer(Modifier):
    """Train with another optimizer than fused AdamW, at the trainer's learning rate.

    SGD wants a far higher rate than Adam's, as in ``full(lr=0.05) + optimizer("sgd")``. Documentation:
    https://docs.pytorch.org/docs/stable/optim.html
    """

    name = "optimizer"
    paper = "https://arxiv.org/abs/1412.6980"
    example = 'full(lr=0.05) + optimizer("sgd", momentum=0.9)'

    optimizer: Literal["sgd", "adam", "adamw"]
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9

    def on_optimizer(self, training: Training) -> torch.optim.Optimizer:
        """Make it, fused as the default is."""
        import torch

        options: dict[str, Any] = {**training.optimizer_options, "fused": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(training.parameters, momentum=self.momentum, **options)
        return _classes()[self.optimizer](training.parameters, **options)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The optimizer at work is of the class, and its state has the tensors that the class keeps."""
        import torch

        found = work.optimizer  # type: ignore[attr-defined]
        wanted = _classes()[self.optimizer]
        keeps = {"sgd": {"momentum_buffer"} if self.momentum else set(), "adam": {"exp_avg", "exp_avg_sq"}}
        keys = {key for state in found.state.values() for key, value in state.items() if torch.is_tensor(value) and value.dim()}
        yield Claim(f"{wanted.__name__} made the updates", type(found) is wanted, f"it was {type(found).__name__}")
        expected = keeps.get(self.optimizer, keeps["adam"])
        yield Claim(f"its state is {sorted(expected)}", keys == expected, str(sorted(keys)))


def _classes() -> dict[str, type[torch.optim.Optimizer]]:
    import torch

    return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
