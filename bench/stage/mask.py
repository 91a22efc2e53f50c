"""Attention masks that hide nothing: left out where the model answers the same, and where looking at one makes the host wait.

transformers looks into each mask whether it hides anything, for which the host waits for a GPU in every forward pass,
and without a mask into the tokens whether they are padding. Where no item of a batch has any, both are known here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from bench.tasks.base import Batch

_WARNS = "warn_if_padding_and_no_attention_mask"


def idle(model: torch.nn.Module, batch: Batch) -> bool:
    """Whether `model` answers an item without padding alike, bit for bit, with its mask and without.

    It is asked for the longest item of `batch`, in evaluation mode. A model that cannot do without a mask answers no,
    and so does one that is compiled: its code does not look, and would be compiled once more.
    """
    from bench.models.modes import evaluating

    if "attention_mask" not in batch.inputs or _compiled(model):
        return False
    item = max(range(batch.samples), key=batch.lengths.__getitem__)
    inputs = {name: tensor[item : item + 1, : batch.lengths[item]] for name, tensor in batch.inputs.items()}
    if not bool(inputs["attention_mask"].all()):  # padding comes first
        return False
    with evaluating(model), torch.no_grad(), unasked(model):
        try:
            answers = [model(**given).logits for given in (inputs, without(inputs))]
        except (TypeError, ValueError, AttributeError, RuntimeError):
            return False
    return torch.equal(*answers)


def without(inputs: Any) -> dict[str, torch.Tensor]:
    """`inputs` of a model but the mask."""
    return {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}


@contextlib.contextmanager
def unasked(model: torch.nn.Module) -> Iterator[None]:
    """Inside, no part of `model` looks for padding in what is given to it without a mask."""
    asking = [module for module in model.modules() if hasattr(module, _WARNS) and _WARNS not in vars(module)]
    for module in asking:
        setattr(module, _WARNS, _nothing)
    try:
        yield
    finally:
        for module in asking:
            delattr(module, _WARNS)


def _nothing(*_: object) -> None:
    """Says nothing."""


def _compiled(model: torch.nn.Module) -> bool:
    return any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
