"""What methods share that hold weights at zero: the mask outlives the method, for later trainings keep it."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.plan.context import PlanContext
from bench.recipe.declarations import Fact
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Method, Transform
from bench.stage.evidence import Claim, digest, whole
from methods import _coverage, _refusals, _replay
from methods._calibration import Calibration
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import Training
    from bench.stage.work import Work

Masks = list[tuple["torch.Tensor", "torch.Tensor"]]
"""Weights, each with True where it is not zero."""


class Masking(Transform):
    """Holds weights of the blocks' linear layers at zero, now and in later trainings."""

    refuses = (
        ("adapter", _refusals.ADAPTER),
        (
            "quantized",
            "quantized weights cannot be compared and zeroed; prune first, as in `{method} >> torch_int8_dynamic`",
        ),
    )

    @property
    def adds(self) -> frozenset[Fact]:
        """Zeros."""
        return frozenset({"sparse"})

    @abc.abstractmethod
    def cut(self, work: Work) -> None:
        """Set weights to zero."""

    @abc.abstractmethod
    def pattern(self, work: Work) -> Iterator[Claim]:
        """Look at the model alone: there are the zeros that there should be."""

    @abc.abstractmethod
    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """Look at the weights as they were, too, by layer: the right ones are zero."""

    @property
    @abc.abstractmethod
    def share(self) -> float:
        """Of the weights that it looks at, those that it zeroes."""

    def extends(self, earlier: Masking) -> bool:
        """Whether this can follow on `earlier` and still come to its own pattern."""
        return False

    def problems(self, context: PlanContext) -> Iterator[str]:
        """One pattern of zeros is no start for another."""
        yield from linear_blocks(context)
        for earlier in carried(context):
            if not self.extends(earlier):
                yield (
                    f"the weights are sparse from `{earlier}` already, and its zeros need not fit the pattern of `{self}`; "
                    f"prune more of them by the same method with a larger amount, or by one method alone"
                )

    def apply(self, work: Work) -> None:
        """Zero, and put the weights as they were aside for the evidence."""
        work.state[self.name] = {
            name: layer.weight.detach().cpu().clone() for name, layer in layers(work.model).items()
        }
        self.cut(work)

    def on_model(self, training: Training) -> None:
        """Remember what is zero, of the weights that will train; and of all, a bit each, for the evidence."""
        training.state[f"{self.name} zeros"] = _zeros(training.model)
        training.state[self.name] = masks(training) if "adapter" not in training.trainer.adds else []

    def on_step(self, training: Training) -> None:
        """Put the zeros back."""
        restore(training.state.get(self.name, []))

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The zeros are as many as said and where they belong, and nothing outside of those layers changed."""
        yield from self.pattern(work)
        originals = self.originals(before, work)
        weights = {f"{name}.weight" for name in originals}
        yield _coverage.covers(before, work, weights, "compared")
        others = before.changed(work.after) - weights
        yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")
        yield from self.chosen(work, originals)

    def originals(self, before: Snapshot, work: Work) -> dict[str, torch.Tensor]:
        """The weights that were put aside, those that are bit-identical with what was there before."""
        found = _coverage.weights(work.model)
        return {
            plain(name): weight.to(found[plain(name)].dtype)
            for name, weight in work.state.get(self.name, {}).items()
            if before.digests[f"{plain(name)}.weight"] == digest(weight)
        }

    def retention_evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """No zero came back in training, and no weight went with them."""
        wanted = {name.removesuffix(".weight") for name in _coverage.matrices(before, work.model)}
        were: dict[str, Any] = work.state.get(f"{self.name} zeros", {})
        now = _zeros(work.model)
        known = {name for name in wanted & were.keys() & now.keys() if _count(were[name]) == _zeros_in(before, name)}
        grown = sum(_count(were[name] & ~now[name]) for name in known)
        lost = sum(_count(now[name] & ~were[name]) for name in known)
        total = sum(_count(were[name]) for name in known)
        yield Claim(
            "the zeros were kept in training, and no weight was lost",
            known == wanted and not grown and lost <= total / 1000,
            f"{grown:,} of {total:,} in {len(known)} of {len(wanted)} layers grew, {lost:,} others came",
        )


class Pruning(Masking):
    """Holds an ``amount`` of the weights at zero; it can be called again and again with rising amounts."""

    amount: float

    @property
    def share(self) -> float:
        """The amount."""
        return self.amount

    @abc.abstractmethod
    def prune(self, work: Work, amount: float) -> None:
        """Set this share of the weights to zero. Weights that are zero already are the first to be taken."""

    def cut(self, work: Work) -> None:
        """Prune by the amount."""
        self.prune(work, self.amount)

    def extends(self, earlier: Masking) -> bool:
        """The same method with a smaller amount has zeroed a part of what this would."""
        return (
            isinstance(earlier, type(self))
            and earlier.amount < self.amount
            and dataclasses.replace(self, amount=earlier.amount) == earlier  # type: ignore[type-var]
        )


def carried(context: PlanContext) -> list[Masking]:
    """The methods before `context` whose zeros are in the model that arrives there."""
    earlier: list[Method] = [method for stage in stages_in_effect(context.before) for method in stage.methods]
    return [kept for method in earlier for kept in method.maintained() if isinstance(kept, Masking)]


def layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are pruned. An adapter's own low-rank layers are no part of them."""
    from bench.models.architecture import block_linears

    return {name: layer for name, layer in block_linears(model).items() if "lora_" not in name}


def by_block(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """The layers, those of each block together, first block to last."""
    from bench.models.architecture import blocks

    found = layers(model)
    within = [{id(module) for module in block.modules()} for block in blocks(model)]
    return [{name: layer for name, layer in found.items() if id(layer) in inside} for inside in within]


def masks(training: Training) -> Masks:
    """What is zero, of the weights that train."""
    weights = [layer.weight for layer in layers(training.model).values() if layer.weight.requires_grad]
    return [(weight, weight.detach() != 0) for weight in weights]


def restore(held: Masks) -> None:
    """Put the zeros back."""
    import torch

    with torch.no_grad():
        for weight, mask in held:
            weight.mul_(mask)


def smallest(weights: Sequence[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """Of each of `weights`, True at those among the `count` that are nearest to zero of all; of equal ones the first.

    What torch sorts or selects from in one piece may have no more than 2³¹ numbers on a GPU. So the threshold is found in
    two passes over pieces: numbers without a sign are in the order of their bits, of which the first pass counts the upper
    half and the second the lower, where the upper is the threshold's. Nothing waits for a GPU.
    """
    import torch

    if not weights:
        return
    device = weights[0].device
    threshold = torch.zeros((), dtype=torch.int32, device=device)
    left = torch.full((), count, dtype=torch.long, device=device)
    for shift in (_HALF_BITS, 0):
        threshold, left = _narrowed(weights, threshold, left, shift)
    for weight in weights:
        found = []
        for bits in _bits(weight):
            equal = bits == threshold
            rank = equal.cumsum(0)
            found.append((bits < threshold) | (equal & (rank <= left)))
            left = left - rank[-1]
        yield torch.cat(found).view_as(weight)


def _narrowed(
    weights: Sequence[torch.Tensor], start: torch.Tensor, left: torch.Tensor, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The threshold's bits down to the one at `shift`, of which `start` are those before, and how many of the `left`
    smallest begin with them all."""
    import torch

    counts = torch.zeros(2**_HALF_BITS, dtype=torch.long, device=start.device)
    for weight in weights:
        for bits in _bits(weight):
            inside = torch.ones_like(bits) if shift else (bits >> _HALF_BITS) == (start >> _HALF_BITS)
            counts.scatter_add_(0, ((bits >> shift) & (2**_HALF_BITS - 1)).long(), inside.long())
    upto = counts.cumsum(0)
    # The first that has all that are left; beyond the last where they are more than there are.
    place = (upto < left).sum().clamp(max=len(upto) - 1)
    return start | (place << shift).int(), left - (upto - counts).gather(0, place.view(1)).squeeze(0)


def _bits(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """The bits of the sizes, as whole numbers in the same order, in pieces."""
    import torch

    for piece in weight.detach().flatten().split(_PIECE):
        yield piece.abs().float().view(torch.int32)


_HALF_BITS = 16
_PIECE = 2**24
"""Numbers at a time: what is made of them takes some 500 MB."""


def zero_lowest(layer: nn.Linear, scores: torch.Tensor, cut: int) -> None:
    """Set, in each row of `scores` ``[groups, members]``, the weights of the `cut` lowest to zero."""
    import torch

    with torch.no_grad():
        kept = torch.ones_like(scores).scatter_(1, scores.topk(cut, dim=1, largest=False).indices, 0.0)
        layer.weight.mul_(kept.view_as(layer.weight))


def squares(inputs: torch.Tensor) -> torch.Tensor:
    """The squares of each input, summed over tokens."""
    return inputs.square().sum(0)


def products(inputs: torch.Tensor) -> torch.Tensor:
    """The products of all pairs of inputs, summed over tokens."""
    return inputs.T @ inputs


# -- claims


def _zeros(model: nn.Module) -> dict[str, Any]:
    """Which weights of each matrix in the blocks are zero, a bit each."""
    import numpy

    return {
        name: numpy.packbits((whole(weight.detach()) == 0).cpu().numpy())
        for name, weight in _coverage.weights(model).items()
        if "lora_" not in name
    }


def _count(bits: Any) -> int:
    import numpy

    return int(numpy.unpackbits(bits).sum())


def _zeros_in(before: Snapshot, name: str) -> int:
    return math.prod(before.shapes[f"{name}.weight"]) - before.nonzero[f"{name}.weight"]


def rows_have(work: Work, amount: float) -> Claim:
    """That every row has its share of zeros, to the nearest whole weight."""
    wrong, zeros, total = 0, 0, 0
    weights = _coverage.weights(work.model)
    for weight in weights.values():
        found = (weight == 0).sum(1)
        wrong += int((found != round(amount * weight.shape[1])).sum())
        zeros += int(found.sum())
        total += weight.numel()
    return Claim(
        f"{amount:g} of the weights in each row are zero, to the nearest whole weight",
        total > 0 and not wrong,
        f"{zeros / max(total, 1):.4f} of all in {len(weights)} layers, {wrong} rows have another number",
    )


def share_is(amount: float, parts: Iterable[Iterable[torch.Tensor]], chosen_in: int | None = None) -> Claim:
    """That the share of zeros is the amount in each of `parts`, to the nearest weight; of each `chosen_in` columns, if given."""
    shares, off = [], 0.0
    for part in parts:
        weights = list(part)
        total = sum(weight.numel() for weight in weights)
        zeros = total - sum(int(weight.count_nonzero()) for weight in weights)
        times = 1 if chosen_in is None else -(-weights[0].shape[1] // chosen_in)
        shares.append(zeros / total)
        off = max(off, abs(zeros - amount * total) - (times + 1) / 2)
    where = "the" if len(shares) == 1 else "each layer's"
    return Claim(
        f"{amount:g} of {where} weights are zero, to the nearest whole weight",
        bool(shares) and off <= 0,
        f"{min(shares, default=0):.4f} to {max(shares, default=0):.4f}, {off + 0.5:.0f} weights off"
        if off > 0
        else f"{min(shares, default=0):.4f} to {max(shares, default=0):.4f} in {len(shares)}",
    )


def unchanged(work: Work, originals: Mapping[str, torch.Tensor]) -> Claim:
    """That every weight is zero or what it was."""
    import torch

    found = _coverage.weights(work.model)
    now = {name: found[name].detach().cpu() for name in originals}
    changed = [name for name, was in originals.items() if not torch.equal(now[name], was * (now[name] != 0))]
    return Claim(
        "each weight is zero or what it was",
        bool(originals) and not changed,
        f"{len(changed)} of {len(originals)} layers differ",
    )


def lowest(
    what: str, groups: Iterable[tuple[torch.Tensor, torch.Tensor]], slack: float = 1e-5, *, joined: bool = False
) -> Claim:
    """That no weight was zeroed that scored more than one that was kept in its group, beyond `slack` of the score.

    `groups` are pairs ``[groups, members]``: the scores, and True where the weight is zero. Where `joined` they are parts
    of one group.
    """
    import torch

    wrong = total = members = 0
    ends = []
    for scores, zero in groups:
        highest = scores.masked_fill(~zero, 0.0).amax(1)
        kept = scores.masked_fill(zero, float("inf")).amin(1)
        members += scores.numel()
        if joined:
            ends.append((highest.amax().float(), kept.amin().float()))
            continue
        wrong += int((highest > kept * (1 + slack)).sum())
        total += len(scores)
    if ends:
        tops, bottoms = map(torch.stack, zip(*ends, strict=True))
        wrong, total = int(tops.max() > bottoms.min() * (1 + slack)), 1
    return Claim(
        f"{what} are zero", total > 0 and not wrong, f"not so in {wrong:,} of {total:,} groups of {members:,} weights"
    )


def by_norms(
    work: Work, originals: Mapping[str, torch.Tensor], calibration: Calibration, together: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of each layer the scores |W|·‖X‖ and what is zero, for :func:`lowest`: in rows, or in each `together` of a row."""
    now = _coverage.weights(work.model)
    for name, energy in _replay.sums(work, originals, calibration, lambda rows: (rows * rows).sum(0)):
        scores = (originals[name].float() * energy.cpu().sqrt()).abs()
        zero = now[name].detach().cpu() == 0
        yield (scores, zero) if together is None else (scores.view(-1, together), zero.view(-1, together))


def made_up(
    work: Work, originals: Mapping[str, torch.Tensor], calibration: Calibration, damp: float, together: int, flat: bool
) -> Iterator[Claim]:
    """That weights went one column after the other, the lowest of each `together` by what their loss costs, and that the
    rest made up for it. Where `flat`, the lowest of all rows together.
    """
    from methods import _compensation

    now, errors, groups = _coverage.weights(work.model), {}, []
    farthest = 0.0
    for name, gram in _replay.sums(work, originals, calibration, _replay.gram):
        was, weight = originals[name].float(), now[name].detach().cpu().float()
        zero = weight == 0
        errors[name] = _replay.Error.of(was, weight, was * ~zero, gram.cpu())
        course = _compensation.course(was, weight, gram, damp)
        farthest = max(farthest, float(((course.turn - weight) * ~zero).abs().max() / was.square().mean().sqrt()))
        scores = (course.before(together) / course.factor.diagonal()).square()
        for start in range(0, weight.shape[1], together if flat else weight.shape[1]):
            columns = slice(start, start + together if flat else None)
            width = -1 if flat else together
            groups.append(
                (
                    scores[:, columns].reshape(1 if flat else -1, width),
                    zero[:, columns].reshape(1 if flat else -1, width),
                )
            )
    yield _replay.nearer("zeros alone", errors, len(originals))
    yield Claim(
        "each weight that is kept is what the surgeon's formula makes of it",
        0 < len(errors) == len(originals) and farthest <= 0.01,
        f"in {len(errors)} of {len(originals)} layers, to {farthest:.1g} of a weight",
    )
    each = f"each {together} columns" if flat else f"each {together} of a row"
    yield lowest(f"of {each} those whose loss costs least, when it is their turn,", groups, 1e-2)
