"""Token embeddings on their way into the model: changed for a while, or looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextlib.contextmanager
def changed(model: nn.Module, change: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside, what `change` makes of the embedding layer's output goes on into the model; no weight is touched."""
    from bench.models.architecture import embeddings

    def hook(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return change(layer, output)

    # Before other hooks, so that those who look see what the model sees.
    handle = embeddings(model).register_forward_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def observed(model: nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Token ids and embeddings of every pass inside, as the model gets them. For evidence."""
    from bench.models.architecture import embeddings

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = embeddings(model).register_forward_hook(
        lambda layer, inputs, output: seen.append((inputs[0].detach().clone(), output.detach().clone()))
    )
    try:
        yield seen
    finally:
        handle.remove()
