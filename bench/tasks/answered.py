"""What a model answers to a split, beside what an uncompressed one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.models.modes import device_of
from bench.tasks.base import MOST_KEPT, Answers, Batch
from bench.tasks.texts import Encoded

Logits = Callable[[Any, Batch], torch.Tensor]
"""As :meth:`bench.tasks.base.Task.logits`."""


def answered(
    logits: Logits,
    encoded: Encoded,
    model: torch.nn.Module,
    batch_size: int,
    uncompressed: torch.nn.Module | Answers | None = None,
    answers: Answers | None = None,
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor | None]]:
    """Batches on the model's device, the `logits` of `model` and those of the `uncompressed` one where there is one.

    Items of like length go together, for little padding. `answers` are filled with the model's logits, but where they are
    many (:data:`bench.tasks.base.MOST_KEPT`): they are empty then.
    """
    device, kept = device_of(model), 0
    order = sorted(range(len(encoded)), key=lambda item: encoded.lengths[item])
    for number, start in enumerate(range(0, len(order), batch_size)):
        batch = encoded.batch(order[start : start + batch_size]).to(device)
        other = None
        with torch.no_grad():
            found = logits(model(**batch.inputs), batch)
            if isinstance(uncompressed, torch.nn.Module):
                other = logits(uncompressed(**batch.inputs), batch)
        if isinstance(uncompressed, list):
            other = uncompressed[number].to(device)
        if answers is not None:
            answers.append(found.cpu())
            kept += found.numel()
            if kept > MOST_KEPT:
                answers.clear()
                answers = None
        yield batch, found, other
