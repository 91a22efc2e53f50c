"""What methods share that add weights to a frozen model and train those."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from bench.models.names import plain
from bench.stage.evidence import Claim, digest, named_tensors, projection, whole_numel

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training
    from bench.stage.work import Work


def new_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains beside an adapter: the task's head, and all else that was made new for the task, such as a pooler.

    A language model keeps the head that it was pretrained with.
    """
    from bench.models.architecture import head_parameters, new_parameters, unwrapped

    head = {} if unwrapped(model).get_output_embeddings() is not None else head_parameters(model)
    return head | new_parameters(model)


def remember(training: Training) -> None:
    """Note what is about to train as it is at the start, for :func:`claims`."""
    about_to = {name: tensor for name, tensor in named_tensors(training.model).items() if tensor.requires_grad}
    training.state["start"] = {name: digest(tensor) for name, tensor in about_to.items()}
    training.state["start range"] = {
        name: (float(tensor.detach().min()), float(tensor.detach().max()))
        for name, tensor in about_to.items()
        if tensor.numel()
    }


def started(work: Training, text: str, part: str, value: float) -> Claim:
    """That all tensors whose names hold `part` were `value` everywhere when the first step began.

    Of those that are divided by then it is known how they were when they were put on.
    """
    import torch

    tensors = named_tensors(work.model)
    ranges = {name: both for name, both in work.state.get("start range", {}).items() if part in name}
    other = []
    for name, both in ranges.items():
        mark, tensor = work.began.get(name), tensors.get(name)
        if mark is None or tensor is None:
            other += [name] if both != (value, value) else []
            continue
        wanted = torch.full_like(tensor.detach(), value)
        right = mark == digest(wanted) if isinstance(mark, str) else torch.equal(mark, projection(wanted))
        other += [] if right else [name]
    return Claim(text, bool(ranges) and not other, f"{len(ranges) - len(other)} of {len(ranges)} tensors")


def claims(
    before: Snapshot, work: Work, mark: str, also: Set[str] = frozenset(), *, every: bool = False
) -> Iterator[Claim]:
    """The base is bit-identical, the new weights (whose names hold `mark`) and the head train, and they moved.

    `also` names tensors of the base that may differ. Of the new parameters `every` one trains and of each kind one moved;
    by default those train of which there is one like it that does, whose name differs in numbers alone.
    """
    from bench.models.architecture import head_parameters, new_parameters

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
    start = work.state.get("start", {})
    moved = {name for name in added if after.digests[name] != start.get(name, after.digests[name])}
    parameters = {plain(name) for name, _ in work.model.named_parameters() if ".original_module." not in name}
    there = {name for name in parameters & tensors.keys() if mark in name}
    kinds = {_kind(name) for name in added}
    wanted = {name for name in there if every or _kind(name) in kinds}
    yield Claim(
        "all of the adapter trains", bool(wanted) and wanted <= added, f"{len(wanted & added)} of {len(wanted)} tensors"
    )
    still = {_kind(name) for name in wanted} - {_kind(name) for name in moved}
    parts = {part for name in wanted if (part := _block(name))}
    unmoved = parts - {_block(name) for name in moved}
    # The first update of what is multiplied with zeros is zero.
    once = len(getattr(work, "losses", ())) < 2
    yield Claim(
        "the adapter moved in training, each kind of its tensors, in each block",
        bool(moved) and not unmoved and (once or not every or not still),
        f"{len(moved)} of {len(wanted)} tensors, in {len(parts) - len(unmoved)} of {len(parts)} blocks",
    )


def _kind(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _block(name: str) -> str:
    """The part of a name up to its first number."""
    found = re.match(r".*?\.\d+\.", name)
    return found[0] if found else ""
