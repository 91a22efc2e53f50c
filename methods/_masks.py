"""What methods share that hold weights at zero: the mask outlives the method, for later trainings keep it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from bench.evidence import Claim, digest, plain
from bench.method import Method, Place, Transform, standing
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.evidence import Snapshot
    from bench.loop import Training
    from bench.work import Work

Masks = list[tuple["torch.Tensor", "torch.Tensor"]]
"""Weights, each with True where it is not zero."""


class Masking(Transform):
    """Holds weights of the blocks' linear layers at zero, now and in later trainings."""

    gives = frozenset({"sparse"})

    @abc.abstractmethod
    def cut(self, work: Work) -> None:
        """Set weights to zero."""

    @abc.abstractmethod
    def pattern(self, work: Work) -> Iterator[Claim]:
        """Look at the model alone: there are the zeros that there should be."""

    @abc.abstractmethod
    def chosen(self, work: Work, originals: Mapping[str, torch.Tensor]) -> Iterator[Claim]:
        """Look at the weights as they were, too: the right ones are zero."""

    @property
    @abc.abstractmethod
    def share(self) -> float:
        """Of the weights that it looks at, those that it zeroes."""

    def extends(self, earlier: Masking) -> bool:
        """Whether this can follow on `earlier` and still come to its own pattern."""
        return False

    def problems(self, place: Place) -> Iterator[str]:
        """It looks at plain weights, and one pattern of zeros is no start for another."""
        if "adapter" in place.facts:
            yield f"there is an adapter on the weights; {place.fold(self)}"
        if "quantized" in place.facts:
            yield f"quantized weights cannot be compared and zeroed; prune first, as in `{self} >> dynamic_int8`"
        yield from linear_blocks(place)
        for earlier in carried(place):
            if not self.extends(earlier):
                yield (
                    f"the weights are sparse from `{earlier}` already, and its zeros need not fit the pattern of `{self}`; "
                    f"prune more of them by the same method with a larger amount, or by one method alone"
                )

    def apply(self, work: Work) -> None:
        """Zero, and put the weights as they were aside for the evidence."""
        work.notes[self.name] = {
            name: layer.weight.detach().cpu().clone() for name, layer in layers(work.model).items()
        }
        self.cut(work)

    def on_model(self, training: Training) -> None:
        """Remember what is zero, of the weights that will train."""
        training.notes[self.name] = masks(training) if "adapter" not in training.trainer.gives else []

    def on_step(self, training: Training) -> None:
        """Put the zeros back."""
        restore(training.notes.get(self.name, []))

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The zeros are as many as said and where they belong, and nothing outside of those layers changed."""
        yield from self.pattern(work)
        weights = {f"{plain(name)}.weight" for name in layers(work.model)}
        others = before.changed(work.after) - weights
        yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")
        yield from self.chosen(work, self.originals(before, work))

    def originals(self, before: Snapshot, work: Work) -> dict[str, torch.Tensor]:
        """The weights that were put aside, those that are bit-identical with what was there before."""
        found = layers(work.model)
        return {
            name: weight.to(found[name].weight.dtype)
            for name, weight in work.notes.get(self.name, {}).items()
            if before.digests[f"{plain(name)}.weight"] == digest(weight)
        }

    def keeps(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """No zero came back in training."""
        names = {f"{plain(name)}.weight" for name in layers(work.model)} & before.nonzero.keys()
        grown = {name for name in names if work.after.nonzero[name] > before.nonzero[name]}
        yield Claim("the zeros were kept in training", not grown, f"{len(grown)} of {len(names)} layers have fewer")


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


def carried(place: Place) -> list[Masking]:
    """The methods before `place` whose zeros are in the model that arrives there."""
    earlier: list[Method] = [method for stage in standing(place.before) for method in stage.methods]
    return [kept for method in earlier for kept in method.carries() if isinstance(kept, Masking)]


def layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are pruned. An adapter's own low-rank layers are no part of them."""
    from bench.architecture import block_linears

    return {name: layer for name, layer in block_linears(model).items() if "lora_" not in name}


def by_block(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """The layers, those of each block together, first block to last."""
    from bench.architecture import blocks

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


def remeasured(
    work: Work,
    originals: Mapping[str, torch.Tensor],
    samples: int,
    measure: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What a layer's inputs gave when its block's turn came: the blocks before were pruned, its own was not."""
    import torch

    from methods import _statistics

    found: dict[str, torch.Tensor] = {}
    for block in by_block(work.model):
        pruned = {name: layer.weight.detach().clone() for name, layer in block.items()}
        with torch.no_grad():
            for name, layer in block.items():
                layer.weight.copy_(originals.get(name, pruned[name]))
            found |= _statistics.collect(work, block, samples, measure)
            for name, layer in block.items():
                layer.weight.copy_(pruned[name])
    return {name: sums.cpu() for name, sums in found.items()}


# -- claims


def rows_have(work: Work, amount: float) -> Claim:
    """That every row has its share of zeros, to the nearest whole weight."""
    wrong, zeros, total = 0, 0, 0
    for layer in layers(work.model).values():
        found = (layer.weight == 0).sum(1)
        wrong += int((found != round(amount * layer.in_features)).sum())
        zeros += int(found.sum())
        total += layer.weight.numel()
    return Claim(
        f"{amount:g} of the weights in each row are zero, to the nearest whole weight",
        not wrong,
        f"{zeros / total:.4f} of all, {wrong} rows have another number",
    )


def share_is(amount: float, parts: Iterable[Iterable[nn.Linear]]) -> Claim:
    """That the share of zeros is the amount in each of `parts`, to 1e-3 or to a weight where that is more."""
    shares, off = [], 0.0
    for part in parts:
        weights = [layer.weight for layer in part]
        total = sum(weight.numel() for weight in weights)
        shares.append(1 - sum(int(weight.count_nonzero()) for weight in weights) / total)
        off = max(off, abs(shares[-1] - amount) - max(1e-3, 1 / total))
    where = "the" if len(shares) == 1 else "each layer's"
    return Claim(f"{amount:g} of {where} weights are zero", off <= 0, f"{min(shares):.4f} to {max(shares):.4f}")


def unchanged(work: Work, originals: Mapping[str, torch.Tensor]) -> Claim:
    """That every weight is zero or what it was."""
    import torch

    found = {name: layer.weight.detach().cpu() for name, layer in layers(work.model).items()}
    changed = [name for name, was in originals.items() if not torch.equal(found[name], was * (found[name] != 0))]
    return Claim(
        "each weight is zero or what it was",
        bool(originals) and not changed,
        f"{len(changed)} of {len(originals)} layers differ",
    )


def lowest(what: str, groups: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Claim:
    """That no weight was zeroed that scored more than one that was kept in its group.

    `groups` are pairs ``[groups, members]``: the scores, and True where the weight is zero.
    """
    wrong = total = 0
    for scores, zero in groups:
        highest = scores.masked_fill(~zero, 0.0).amax(1)
        kept = scores.masked_fill(zero, float("inf")).amin(1)
        wrong += int((highest > kept * (1 + 1e-5)).sum())
        total += len(scores)
    return Claim(f"{what} are zero", total > 0 and not wrong, f"not so in {wrong} of {total}")


def compensated(work: Work, originals: Mapping[str, torch.Tensor], samples: int) -> Claim:
    """That the layers' outputs are nearer to what they were than zeros alone would leave them."""
    grams = remeasured(work, originals, samples, products) if originals else {}
    moved, zeroed = 0.0, 0.0
    for name, was in originals.items():
        now = layers(work.model)[name].weight.detach().cpu().float()
        whole = output_error(was.float(), grams[name]) * len(originals)
        moved += output_error(was - now, grams[name]) / whole
        zeroed += output_error(was * (now == 0), grams[name]) / whole
    return Claim(
        "the kept weights make up for the zeros on calibration data",
        moved < zeroed,
        f"squared error {moved:.4f} of the outputs' own; zeros alone would make it {zeroed:.4f}",
    )


def output_error(difference: torch.Tensor, gram: torch.Tensor) -> float:
    """‖D X‖² for a difference of weights D and the products of inputs X Xᵀ."""
    return float(((difference @ gram) * difference).sum())
