"""Where a model is, and the mode in which it answers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for one that has none, as another runtime may hold them."""
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and back to the mode that each module was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
