"""What layers were given when their block's turn came, for evidence: measured anew, and not as methods measure it.

Tokens are told from padding by the items' lengths, blocks by the numbers in their layers' names.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.stage.evidence import Claim
from methods._calibration import Calibration

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.work import Work
    from bench.tasks.base import Batch

Measure = Callable[["torch.Tensor"], "torch.Tensor"]
"""Takes a layer's inputs ``[rows, in_features]``, rows of padding all 0, and gives what is summed over batches."""


def batches(work: Work, calibration: Calibration) -> Iterator[Batch]:
    """The whole batches of its data, in the stage's order, that its samples fit into."""
    steps = range(0, calibration.samples, work.budget.batch_size)
    for _, batch in zip(steps, calibration.batches(work), strict=False):
        yield batch


def sums(
    work: Work, originals: Mapping[str, torch.Tensor], calibration: Calibration, measure: Measure
) -> Iterator[tuple[str, torch.Tensor]]:
    """Of each layer that had a weight in `originals`, by its name, `measure` of its inputs, summed; block by block.

    While a block is measured it has these weights; the other blocks are as the method left them.
    """
    import torch

    from bench.models.modes import evaluating

    modules: dict[str, Any] = dict(work.model.named_modules())
    for paths in by_block(originals):
        seen = _Inputs(measure)
        try:
            for path in paths:
                layer = _plain(originals[path].to(work.device), modules[path].bias)
                work.model.set_submodule(path, seen.watch(path, layer))
            with evaluating(work.model), torch.no_grad():
                for batch in batches(work, calibration):
                    seen.real = tokens(work, batch)
                    work.outputs(batch)
        finally:
            for path in paths:
                work.model.set_submodule(path, modules[path])
        yield from seen.sums.items()


class _Inputs:
    """What watched layers are given, summed up. ``real`` is True at the tokens of the batch."""

    real: torch.Tensor

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.sums: dict[str, torch.Tensor] = {}

    def watch(self, path: str, layer: nn.Module) -> nn.Module:
        """Look at each input of `layer` from now on."""

        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            rows = args[0].float()
            if rows.shape[:-1] == self.real.shape:
                rows = rows * self.real.unsqueeze(-1)
            found = self.measure(rows.flatten(0, -2))
            self.sums[path] = found if path not in self.sums else self.sums[path] + found

        layer.register_forward_pre_hook(see)
        return layer


def by_block(paths: Mapping[str, Any]) -> list[list[str]]:
    """The names, those that are the same up to their first number together."""
    return [list(same) for _, same in itertools.groupby(paths, lambda path: re.sub(r"(\.\d+)\..*", r"\1", path))]


def tokens(work: Work, batch: Batch) -> torch.Tensor:
    """``[items, length]``: True at a token, False at padding."""
    import torch

    length = batch.inputs["input_ids"].shape[1]
    return torch.arange(length, device=work.device) < torch.tensor(batch.lengths, device=work.device)[:, None]


def gram(rows: torch.Tensor) -> torch.Tensor:
    """The products of every two inputs."""
    import torch

    return torch.einsum("ti,tj->ij", rows, rows)


@dataclass(frozen=True)
class Error:
    """Of a layer on calibration data: squared errors of its outputs, those of something plainer, and the outputs' squares."""

    ours: float
    theirs: float
    whole: float

    @classmethod
    def of(cls, was: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor, products: torch.Tensor) -> Error:
        """For weights ``[out_features, in_features]`` and the products of every two inputs."""

        def square(weight: torch.Tensor) -> float:
            return float((weight @ products).mul(weight).sum())

        return cls(square(ours - was), square(theirs - was), square(was))


def nearer(what: str, errors: Mapping[str, Error], count: int) -> Claim:
    """That all layers, `count` of them, err less than `what` would."""
    ours, theirs = shares(errors)
    worse = sorted(path for path, error in errors.items() if error.ours >= error.theirs > 0)
    return Claim(
        f"on calibration data each layer errs less than {what} would",
        0 < len(errors) == count and not worse,
        f"{len(errors) - len(worse)} of {count}, by {ours}, {what} by {theirs}{f'; not {worse[0]}' if worse else ''}",
    )


def shares(errors: Mapping[str, Error]) -> list[str]:
    """In words, by what share of the outputs we err, and the plainer: the root of the mean square over layers."""
    means = [
        math.fsum(getattr(error, name) / error.whole for error in errors.values() if error.whole) / max(len(errors), 1)
        for name in ("ours", "theirs")
    ]
    return [f"{100 * mean**0.5:.3g} % of the outputs" for mean in means]


def _plain(weight: torch.Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A linear layer of this weight, which is not copied."""
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), bias  # type: ignore[assignment]
    return layer
