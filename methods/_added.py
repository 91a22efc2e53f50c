"""What methods share that add weights to a frozen model and train those."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from bench.evidence import Claim, digest, named_tensors, whole_numel

if TYPE_CHECKING:
    from torch import nn

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work


def new_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains beside an adapter: the task's head, and all else that was made new for the task, such as a pooler.

    A language model keeps the head that it was pretrained with.
    """
    from bench.architecture import base, head_parameters, new_parameters

    head = {} if base(model).get_output_embeddings() is not None else head_parameters(model)
    return head | new_parameters(model)


def remember(training: Training) -> None:
    """Note what is about to train as it is at the start, for :func:`claims`."""
    tensors = named_tensors(training.model)
    training.notes["start"] = {name: digest(tensor) for name, tensor in tensors.items() if tensor.requires_grad}


def claims(before: Snapshot, work: Work, mark: str, also: Set[str] = frozenset()) -> Iterator[Claim]:
    """The base is bit-identical, the new weights (whose names hold `mark`) and the head train, and they moved.

    `also` names tensors of the base that may differ.
    """
    from bench.architecture import head_parameters, new_parameters

    after, tensors = work.after, named_tensors(work.model)
    beside = head_parameters(work.model) | new_parameters(work.model)
    outside = {id(parameter) for parameter in beside.values()}
    trained = {name for name, tensor in tensors.items() if tensor.requires_grad}
    added = {name for name in trained if mark in name}
    head = {name for name in trained & before.digests.keys() if id(tensors[name]) in outside}
    base = before.digests.keys() - head - also
    kept = base & before.same(after)
    yield Claim(
        "the base's weights are bit-identical", bool(base) and kept == base, f"{len(kept)} of {len(base)} tensors"
    )
    count = sum(whole_numel(tensors[name]) for name in trained)
    total = sum(
        whole_numel(parameter) for name, parameter in work.model.named_parameters() if ".original_module." not in name
    )
    yield Claim(
        "the adapter and the head train, and nothing else",
        bool(added) and trained - also == added | head,
        f"{count:,} of {total:,} parameters, {100 * count / total:.2f} %",
    )
    start = work.notes.get("start", {})
    moved = {name for name in added if after.digests[name] != start.get(name, after.digests[name])}
    yield Claim("the adapter moved in training", bool(moved), f"{len(moved)} of {len(added)} tensors")
