"""What methods prove that train weights which the model came with: which do, that they moved, and that no other did."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from bench.models.names import plain
from bench.stage.evidence import Claim, named_tensors

if TYPE_CHECKING:
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work

_OF_KEYS = re.compile(r"(^|[._])k(ey|_?proj|_?lin)?s?([._]proj)?\.bias$")
"""Softmax cancels the biases of keys: their gradient is no more than rounding, or nothing."""


def names(model: nn.Module) -> list[str]:
    """The plain names of the model's parameters, in their order."""
    return [plain(name) for name, _ in model.named_parameters()]


def outside_body(model: nn.Module) -> set[str]:
    """Those that do not begin with transformers' name of the pretrained part."""
    from bench.models.architecture import unwrapped

    prefix = f"{unwrapped(model).base_model_prefix}."
    return {name for name in names(model) if not name.startswith(prefix)}


def drawn(model: nn.Module) -> set[str]:
    """Those that no file held."""
    from bench.models.architecture import new_parameters

    return {plain(name) for name in new_parameters(model)}


def claims(before: Snapshot, work: Work, wanted: Set[str], what: str) -> Iterator[Claim]:
    """Of the model's parameters those `wanted`, in words `what`, train and moved, and every other tensor is bit-identical.

    Of matrices each moved. Of vectors, some of which may have no gradient in a batch, one of each kind did: of those
    whose names differ in numbers alone.
    """
    training = {plain(name) for name, parameter in work.model.named_parameters() if parameter.requires_grad}
    yield Claim(
        f"{what} train, and nothing else",
        bool(wanted) and training == wanted,
        f"{len(training & wanted)} of {len(wanted)} tensors, and {len(training - wanted)} others",
    )
    moved = before.changed(work.after)
    still, seen = unmoved(before, work, wanted)
    yield Claim(
        f"{what} moved: each matrix, and of each kind of vector some",
        not still,
        seen + (f"; not {', '.join(still[:3])}" if still else ""),
    )
    others = moved - wanted
    yield Claim("everything else is bit-identical", not others, f"{len(others)} other tensors moved")


def unmoved(before: Snapshot, work: Work, wanted: Set[str]) -> tuple[list[str], str]:
    """Of the tensors `wanted`, the matrices that did not move and the kinds of vector of which none did; what was seen."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(work.model).items()}
    moved = before.changed(work.after)
    there = wanted & before.digests.keys()
    matrices = {name for name in there if len(shapes.get(name, ())) >= 2}
    kinds: dict[str, set[str]] = {}
    for name in there - matrices:
        # A few steps near 1 can be less than 16 bits resolve.
        if not _OF_KEYS.search(name) and before.dtypes[name] not in ("float16", "bfloat16"):
            kinds.setdefault(re.sub(r"\d+", "*", name), set()).add(name)
    still = sorted(matrices - moved) + sorted(kind for kind, members in kinds.items() if not members & moved)
    return still, f"{len(matrices & moved)} of {len(matrices)} matrices, {len(kinds)} kinds of vectors"
