"""Predicting each token of a row from those before it: the criterion, and losses of a batch with few logits at a time.

Labels stand at the tokens themselves, so that the logits at a token predict the label of the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from bench.tasks.base import IGNORED, Batch, Retention


def criterion(outputs: Any, batch: Batch) -> torch.Tensor:
    """Cross entropy in float32, in nats, the mean over predicted tokens."""
    found = predicting(outputs, batch).flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(found, batch.labels[:, 1:].flatten(), ignore_index=IGNORED)


def logits(outputs: Any, batch: Batch) -> torch.Tensor:
    """``[predicted tokens, vocabulary]``."""
    return predicting(outputs, batch)[batch.labels[:, 1:] != IGNORED]


def losses(
    model: torch.nn.Module, batch: Batch, uncompressed: torch.nn.Module | None, retention: Retention
) -> tuple[list[float], list[int]]:
    """Of each item, the nats, and how many tokens were the likeliest at their places. `retention` is added to."""
    loss = torch.zeros(batch.samples, dtype=torch.float64, device=batch.labels.device)
    hits = torch.zeros(batch.samples, dtype=torch.long, device=batch.labels.device)
    width = max(1, LOGITS // (batch.samples * _vocabulary(model)))
    parts = _parts(model, batch, width)
    # Strictly, or the uncompressed's would not come to its end.
    both = (
        ((part, None) for part in parts)
        if uncompressed is None
        else zip(parts, _parts(uncompressed, batch, width), strict=True)
    )
    for (where, found), other in both:
        labels = batch.labels[:, 1:][:, where]
        if other is not None:
            real = labels != IGNORED
            retention.add(found[real], other[1][real], labels[real])
        found = found.float()
        each = torch.nn.functional.cross_entropy(found.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        # A loss that is no number comes from logits that are none, and those predict nothing.
        hits += ((found.argmax(-1) == labels) & each.isfinite()).sum(1)
        loss += each.sum(1, dtype=torch.float64)
    return loss.tolist(), hits.tolist()


LOGITS = 2**28
"""Logits of a batch that are computed and looked at together, at most: 1 GB of float32, of which a loss takes several."""


def _parts(model: torch.nn.Module, batch: Batch, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Columns of ``batch.labels[:, 1:]``, and the logits that predict them, ``[items, columns, vocabulary]``.

    `width` columns at a time, most often all. The body of the model, which has no logits, is run
    once; where the head cannot be run for some columns alone, all are computed and some are looked at.
    """
    columns = batch.labels.shape[1] - 1
    slices = [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
    if len(slices) > 1 and (body := _apart(model)) is not None:
        with _once(body):
            for where in slices:
                # Counted from the end: a prompt's virtual tokens stand before those of the batch.
                keep = torch.arange(where.start, where.stop, device=batch.labels.device) - batch.labels.shape[1]
                yield where, model(**batch.inputs, logits_to_keep=keep).logits
        return
    logits = predicting(model(**batch.inputs), batch)
    for where in slices:
        yield where, logits[:, where]


def _vocabulary(model: torch.nn.Module) -> int:
    """How many classes its logits have; 1 where that is not known, and all are looked at together."""
    from bench.models.architecture import config

    try:
        return int(config(model).vocab_size)
    except AttributeError:
        return 1


def _apart(model: torch.nn.Module) -> torch.nn.Module | None:
    """The body of `model`, where its head is a plain layer that can be run for some positions alone."""
    from bench.models import signature
    from bench.models.architecture import body, unwrapped

    try:
        inner, below = unwrapped(model), body(model)
        plain = type(inner.get_output_embeddings()) is torch.nn.Linear
        some = "logits_to_keep" in signature.arguments(model)
    except AttributeError:
        return None
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    return below if plain and some and below is not inner and not compiled else None


@contextlib.contextmanager
def _once(body: torch.nn.Module) -> Iterator[None]:
    """Inside, `body` is run at its first call, and gives the same answer at each that follows."""
    own, forward = "forward" in vars(body), body.forward
    kept: list[Any] = []

    def first_alone(*args: Any, **options: Any) -> Any:
        if not kept:
            kept.append(forward(*args, **options))
        return kept[0]

    body.forward = first_alone
    try:
        yield
    finally:
        if own:
            body.forward = forward
        else:
            del body.forward


def predicting(outputs: Any, batch: Batch) -> torch.Tensor:
    """The logits that predict ``batch.labels[:, 1:]``. A prompt's virtual tokens stand before those of the batch."""
    logits: torch.Tensor = outputs.logits[:, -batch.labels.shape[1] : -1]
    return logits
