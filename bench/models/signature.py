"""What the forward pass of a transformers model takes, which differs between models and versions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

CACHES = ("cache", "past_key_values", "cache_params")
"""What transformers has called a cache of keys and values, or of states, the newest first."""


def arguments(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The arguments that the transformers model in `model`, out of PEFT's and torch.compile's wrapping, names."""
    from bench.models.architecture import unwrapped

    inner = unwrapped(model)
    return inspect.signature(getattr(inner, "_orig_mod", inner).forward).parameters


def cache_name(model: nn.Module) -> str | None:
    """By which of :data:`CACHES` `model` takes a cache, and its outputs hold theirs; None where it takes none."""
    taken = arguments(model)
    return next((name for name in CACHES if name in taken), None)
