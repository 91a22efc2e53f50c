"""Depth pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from bench.plan.context import PlanContext
from bench.stage.evidence import Claim, digest, named_tensors
from methods import _replay, _statistics
from methods._calibration import Calibrated, Calibration
from methods._models import one_stack

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


@dataclass(frozen=True)
class DropLayers(Calibrated):
    """Take `n` whole blocks out: the model gets shallower, and faster by as much.

    Which ones is told ``by`` their place, the "last" or "every_other" one from the last back, as DistilBERT's student is
    made (https://arxiv.org/abs/1910.01108), or by "similarity": the ones that change their input least, by the cosine
    between what comes in and what goes out at each token of ``samples`` items of ``data`` (ShortGPT's block influence). The
    paper averages over a large corpus; 128 items are the number that pruning methods calibrate on.
    """

    name = "drop_layers"
    paper = "https://arxiv.org/abs/2403.03853"
    example = "full >> drop_layers(2) >> full(share=0.3)"
    tolerates = frozenset({"half"})
    refuses = (("adapter", "there is an adapter in the blocks; {fold}"),)  # its layers would be counted with them

    n: Annotated[int, Ge(1)]
    by: Literal["last", "every_other", "similarity"] = "last"

    @property
    def calibrates(self) -> bool:
        """A block's place is known without data."""
        return self.by == "similarity"

    def problems(self, context: PlanContext) -> Iterator[str]:
        """Enough blocks must be there."""
        yield from super().problems(context)
        yield from one_stack(context)
        count = context.blocks
        if count and self.n > self._most(count):
            yield f"of the blocks, {count} here, {self._most(count)} can be dropped by {self.by}, and not {self.n}; drop fewer"

    def leaves_blocks(self, count: int | None) -> int | None:
        """Without those that it drops."""
        return count and count - self.n

    def apply(self, work: Work) -> None:
        """Choose, drop, count anew."""
        whole = _Depth.of(work.model)
        count = len(whole.blocks)
        if self.n > self._most(count):
            raise ValueError(f"of {count} blocks {self._most(count)} can be dropped by {self.by}, not {self.n}")
        going = self._going(self._influence(work), count)
        work.state[self.name] = whole
        whole.without(going).put(work.model)

    def evidence(self, before: Snapshot, work: Work) -> Iterator[Claim]:
        """The blocks that are left are the right ones of the original's, bit-identical and in order, counted anew."""
        from bench.models.architecture import config, stack

        after, left = work.after, _Depth.of(work.model)
        stem = next(name for name, module in work.model.named_modules() if module is stack(work.model)) + "."
        numbers = {name.removeprefix(stem).split(".")[0] for name in before.digests if name.startswith(stem)}
        whole: _Depth = work.state.get(self.name, left)
        tensors = {
            f"{stem}{number}.{name}": digest(tensor)
            for number, block in enumerate(whole.blocks)
            for name, tensor in named_tensors(block).items()
        }
        known = tensors == {name: found for name, found in before.digests.items() if name.startswith(stem)}
        kept = [number for number, block in enumerate(whole.blocks) if block in left.blocks]
        yield Claim(
            f"{self.n} of the blocks are gone, and the others are as they were and in order",
            known and len(kept) == len(numbers) - self.n and [whole.blocks[number] for number in kept] == left.blocks,
            f"of {len(numbers)} these are left: {', '.join(map(str, kept))}",
        )
        whole.put(work.model)
        yield self._right({*range(len(whole.blocks))} - {*kept}, work)
        left.put(work.model)
        others = {name: found for name, found in before.digests.items() if not name.startswith(stem)}
        changed = {name for name in others if others[name] != after.digests.get(name)}
        yield Claim("nothing else changed", not changed, f"{len(changed)} other tensors changed")
        told = config(work.model).num_hidden_layers
        places = [
            {getattr(module, "layer_idx", number) for module in block.modules()}
            for number, block in enumerate(left.blocks)
        ]
        yield Claim(
            "configuration and blocks count anew",
            told == len(left.blocks) and places == [{number} for number in range(told)],
            f"{told} blocks, at {places} in the cache",
        )

    def _right(self, gone: set[int], work: Work) -> Claim:
        """That the blocks `removal_evidence` of the whole model, which `work` has here, are those that the rule says."""
        from bench.models.architecture import stack

        count = len(stack(work.model))
        if self.by == "similarity":
            changes = _changes(work, self.calibration)
            kept = [change for number, change in enumerate(changes) if number not in gone]
            wrong = [number for number in gone if changes[number] > min(kept, default=0.0) * (1 + 1e-4)]
            said = ", ".join(f"{change:.3g}" for change in changes)
            return Claim(
                "those are gone that change their input least",
                len(gone) == self.n and not wrong,
                f"{len(wrong)} of {len(gone)} change more than one that is left; one minus the mean cosine is {said}",
            )
        going = [number for number in reversed(range(count)) if self.by == "last" or number % 2 == 1][: self.n]
        rule = "the last" if self.by == "last" else "every other one from the last back, the first being kept"
        return Claim(
            f"those are gone that are {rule}",
            gone == {*going},
            f"{', '.join(map(str, sorted(gone))) or 'none'} of {count} are gone",
        )

    def _most(self, count: int) -> int:
        return count // 2 if self.by == "every_other" else count - 1

    def _going(self, influence: Sequence[float], count: int) -> set[int]:
        if self.by == "similarity":
            return set(sorted(range(count), key=lambda number: influence[number])[: self.n])
        candidates = range(count) if self.by == "last" else range(1, count, 2)
        return set(candidates[-self.n :])

    def _influence(self, work: Work) -> list[float]:
        """Of each block one minus the mean cosine of input and output; where nobody asks, nothing."""
        import torch

        from bench.models.architecture import stack

        if self.by != "similarity":
            return []
        sums: dict[str, list[float]] = {}

        def see(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
            cosines = torch.cosine_similarity(inputs, outputs, dim=-1)
            sums.setdefault(name, []).extend((1 - cosines).tolist())

        modules = {str(number): block for number, block in enumerate(stack(work.model))}
        _statistics.observe(work, modules, self.calibration, see)
        return [sum(sums[name]) / len(sums[name]) for name in modules]


def _changes(work: Work, calibration: Calibration) -> list[float]:
    """For evidence: of each block one minus the mean cosine of its input and output, over the tokens of the data."""
    import torch

    from bench.models.architecture import stack
    from bench.models.modes import evaluating

    found = list(stack(work.model))
    totals, count = [0.0] * len(found), 0
    states: list[list[torch.Tensor]] = [[] for _ in found]

    def watch(number: int) -> torch.utils.hooks.RemovableHandle:
        def see(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            given = args[0] if args else named["hidden_states"]
            states[number] = [given.double(), (output if isinstance(output, torch.Tensor) else output[0]).double()]

        return found[number].register_forward_hook(see, with_kwargs=True)

    handles = [watch(number) for number in range(len(found))]
    with evaluating(work.model), torch.no_grad():
        for batch in _replay.batches(work, calibration):
            work.outputs(batch)
            real = _replay.tokens(work, batch)
            count += int(real.sum())
            for number, (given, taken) in enumerate(states):
                cosine = (given * taken).sum(-1) / (given.norm(dim=-1) * taken.norm(dim=-1))
                totals[number] += float((1 - cosine).masked_fill(~real, 0.0).sum())
    for handle in handles:
        handle.remove()
    return [total / count for total in totals]


@dataclass(frozen=True)
class _Depth:
    """A model's blocks, and what its configuration says of each, where it does."""

    blocks: list[nn.Module]
    kinds: list[str] | None

    @classmethod
    def of(cls, model: nn.Module) -> _Depth:
        """What the model has."""
        from bench.models.architecture import config, stack

        return cls(list(stack(model)), getattr(config(model), "layer_types", None))

    def without(self, going: set[int]) -> _Depth:
        """The rest."""
        kinds = self.kinds and [kind for number, kind in enumerate(self.kinds) if number not in going]
        return _Depth([block for number, block in enumerate(self.blocks) if number not in going], kinds)

    def put(self, model: nn.Module) -> None:
        """Make these the model's blocks. Attention finds its keys and values in the cache by ``layer_idx``."""
        from bench.models.architecture import config, stack

        found, sizes = stack(model), config(model)
        del found[:]
        found.extend(self.blocks)
        for number, block in enumerate(self.blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", number)  # noqa: B010
        sizes.num_hidden_layers = len(self.blocks)
        if self.kinds is not None:
            sizes.layer_types = self.kinds
