"""What methods built on PEFT share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.evidence import Claim

if TYPE_CHECKING:
    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.method import Place
    from bench.work import Work

TASK_TYPES = {"classification": "SEQ_CLS", "causal_lm": "CAUSAL_LM"}
"""PEFT's name for each kind of task. For a classifier PEFT trains the new head too."""


def problems(place: Place) -> Iterator[str]:
    """What keeps an adapter from being put on."""
    if "adapter" in place.facts:
        yield "there is an adapter on the model already; fold it first with `>> merge`"
    if "inference_only" in place.facts:
        yield "no gradient flows through a model that was made for inference only"


def attach(training: Training, config_class: str, **options: Any) -> None:
    """Put an adapter of PEFT's `config_class` on the model."""
    import peft

    config = getattr(peft, config_class)(task_type=TASK_TYPES.get(training.task.kind), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training.model = peft.get_peft_model(training.model, config)


def claims(before: Snapshot, work: Work, mark: str) -> Iterator[Claim]:
    """The base is bit-identical, and every tensor of the adapter (whose names hold `mark`) can train and moved."""
    after = work.after
    trainable = {name for name, parameter in work.model.named_parameters() if parameter.requires_grad}
    head = {name for name in trainable if ".modules_to_save." in name}
    adapter = {name for name in trainable if mark in name}
    from bench.evidence import plain

    moved = before.changed(after) - {plain(name) for name in head}
    total = sum(parameter.numel() for parameter in work.model.parameters())
    count = sum(parameter.numel() for name, parameter in work.model.named_parameters() if name in trainable)
    yield Claim("the base's weights are bit-identical", not moved and bool(before.same(after)), f"{len(moved)} tensors moved")
    yield Claim(
        "the adapter and the head train, and nothing else",
        bool(adapter) and trainable == adapter | head,
        f"{count:,} of {total:,} parameters, {100 * count / total:.2f} %",
    )
