"""Gradients as evidence looks at them. No torch until it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.stage.evidence import whole

if TYPE_CHECKING:
    import torch

    from bench.stage.loop import Training


def taken(training: Training) -> torch.Tensor:
    """The gradient that is there as one float32 vector, whole where it is sharded, and away from the parameters."""
    import torch

    # What is frozen or unused in one process is so in all, so that all gather the same ones.
    found = [whole(parameter.grad).float().flatten() for parameter in training.parameters if parameter.grad is not None]
    training.optimizer.zero_grad(set_to_none=True)
    return torch.cat([part.to(training.device) for part in found])
