"""What methods share that make layers smaller."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.models.names import plain
from bench.recipe.declarations import Fact
from bench.recipe.method import Transform
from bench.stage.evidence import Claim, digest, named_tensors
from methods import _refusals, _replay, _statistics
from methods._calibration import Calibration

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work

Importance = Literal["l2", "taylor", "random"]

SAMPLES = 128
"""Training items whose gradients the Taylor importance is made of."""


class Structured(Transform):
    """Cuts whole units out of layers, the least important ones."""

    importance: Importance

    refuses = (
        ("adapter", _refusals.ADAPTER),
        ("quantized", "quantized weights cannot be cut; prune first, as in `{method} >> torch_int8_dynamic`"),
        ("factored", "layers that are products of two cannot be cut; prune first, as in `{method} >> low_rank(8)`"),
    )

    @property
    def tolerates(self) -> frozenset[Fact]:
        """Weights of 16 bits, but not by gradients, which these are too coarse for."""
        return frozenset() if self.importance == "taylor" else frozenset({"half"})


def cut_of(units: int, amount: float) -> int:
    """How many of `units` go: at least one, and one stays.

    Raises:
        ValueError: there is but one.
    """
    if units < 2:
        raise ValueError("nothing can be cut: there is one unit left, and that has to stay")
    return min(max(1, round(units * amount)), units - 1)


# -- with torch-pruning


@contextlib.contextmanager
def graph(work: Work) -> Iterator[Any]:
    """torch-pruning's graph of what must be cut together.

    Only groups that begin at one layer are ever asked of it. Its pruners of whole models never come to an end where
    query heads share keys and values.
    """
    import torch_pruning

    from bench.models.architecture import unwrapped

    model = work.model
    config = unwrapped(model).config
    cache, config.use_cache = getattr(config, "use_cache", None), False
    model.requires_grad_(True)  # tracing follows gradients
    one = {name: tensor[:1] for name, tensor in work.probe.inputs.items()}
    with warnings.catch_warnings():
        # The scales of RMS norms, which are no module's that it knows. It cuts them all the same.
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        yield torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=one, output_transform=_logits(work), verbose=False
        )
    config.use_cache = cache
    model.zero_grad(set_to_none=True)


def _logits(work: Work) -> Callable[[Any], Any]:
    return lambda outputs: [getattr(outputs, name) for name in work.task.logit_names]


def ranking(work: Work, importance: Importance) -> Callable[[Any], torch.Tensor]:
    """Gives the units of one of torch-pruning's groups their importance."""
    import torch
    import torch_pruning

    if importance == "taylor":
        _statistics.gradients(work, SAMPLES)
        return torch_pruning.importance.GroupTaylorImportance()  # type: ignore[no-any-return]
    if importance == "random":
        generator = torch.Generator().manual_seed(work.seed)
        return lambda group: torch.rand(len(group[0].idxs), generator=generator)
    return torch_pruning.importance.GroupMagnitudeImportance(p=2)  # type: ignore[no-any-return]


def cut(graph: Any, layer: nn.Linear, rank: Callable[[Any], torch.Tensor], amount: float) -> None:
    """Take the least important outputs of `layer` away, and all that belongs to them."""
    import torch_pruning

    outputs = torch_pruning.prune_linear_out_channels
    order = rank(graph.get_pruning_group(layer, outputs, list(range(layer.out_features)))).argsort().tolist()
    graph.get_pruning_group(layer, outputs, sorted(order[: cut_of(layer.out_features, amount)])).prune()


# -- what belongs together


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor that is cut, and how many places in it a unit takes."""

    tensor: str
    dim: int
    size: int = 1


Group = list[Member]


def linear(names: Mapping[int, str], layer: nn.Linear, *, outputs: bool, size: int = 1) -> Group:
    """The members that a layer's outputs, or its inputs, are."""
    bias = [Member(names[id(layer.bias)], 0, size)] if outputs and layer.bias is not None else []
    return [Member(names[id(layer.weight)], 0 if outputs else 1, size), *bias]


def names_of(model: nn.Module) -> dict[int, str]:
    """Each parameter's plain name."""
    return {id(parameter): plain(name) for name, parameter in model.named_parameters()}


def units(group: Group, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All that belongs to each unit, ``[units, numbers]``. What is cut along two dimensions is left out."""
    import torch

    cut = [member.tensor for member in group]
    parts = []
    for member in group:
        if cut.count(member.tensor) == 1:
            moved = tensors[member.tensor].detach().movedim(member.dim, 0)
            parts.append(moved.reshape(moved.shape[0] // member.size, -1))
    return torch.cat(parts, dim=1)


# -- evidence


def put_aside(work: Work, name: str) -> None:
    """Keep the model as it is, its tensors in main memory, for the evidence of the method called `name`."""
    import torch

    held: dict[int, Any] = {}
    for tensor in (*work.model.parameters(), *work.model.buffers()):
        kept = tensor.detach().cpu().clone()
        held[id(tensor)] = torch.nn.Parameter(kept) if isinstance(tensor, torch.nn.Parameter) else kept
    work.state[name] = copy.deepcopy(work.model, held)


def originals(before: Snapshot, work: Work, name: str) -> dict[str, torch.Tensor]:
    """The tensors that were put aside, where all of them are bit-identical with what was there before."""
    found = named_tensors(work.state[name]) if name in work.state else {}
    return found if {tensor: digest(value) for tensor, value in found.items()} == before.digests else {}


def left_of(units: int, amount: float) -> int:
    """How many of `units` are left when a share is gone: to the nearest whole one, and neither all nor none."""
    return units - min(max(round(units * amount), 1), units - 1)


def claims(
    before: Snapshot, work: Work, name: str, groups: Sequence[Group], amount: float, others: Group | None = None
) -> Iterator[Claim]:
    """The shapes are those of the formula, no others changed, and what is left of `groups` is whole units.

    `others` are cut by as much, but one need not belong to the next.
    """
    after = work.after
    expected: dict[str, list[int]] = {tensor: list(shape) for tensor, shape in before.shapes.items()}
    for group in [*groups, others or []]:
        for member in group:
            old = before.shapes[member.tensor][member.dim]
            expected[member.tensor][member.dim] = left_of(old // member.size, amount) * member.size
    wrong = {tensor for tensor, shape in expected.items() if after.shapes.get(tensor) != tuple(shape)}
    wrong |= after.shapes.keys() - expected.keys()
    yield Claim("every shape is the one it should be", not wrong, f"{len(wrong)} of {len(expected)} are not")
    parameters = [plain(tensor) for tensor, _ in work.model.named_parameters()]
    was, is_now, formula = (
        sum(prod(shapes.get(tensor, ())) for tensor in parameters) for shapes in (before.shapes, after.shapes, expected)
    )
    yield Claim(
        "the parameters are as many as the formula says",
        is_now == formula < was,
        f"{was:,} → {is_now:,}, formula {formula:,}",
    )
    whole = {} if wrong else originals(before, work, name)
    kept = [survivors(units(group, whole), units(group, named_tensors(work.model))) for group in groups if whole]
    left = sum(len(found) for found in kept)
    lost = sum(found.count(-1) for found in kept)
    yield Claim("what is left is what was there, whole and in order", left > 0 and not lost, f"{left - lost} of {left}")
    untouched = expected.keys() - {member.tensor for group in [*groups, others or []] for member in group}
    changed = untouched - before.same(after)
    yield Claim("what was not to be cut is as it was", not changed, f"{len(changed)} of {len(untouched)} changed")


def ranked(
    before: Snapshot,
    work: Work,
    name: str,
    groups: Sequence[tuple[Group, Group]],
    importance: Importance,
    *,
    drawn: Draw | None = None,
    columns: Mapping[str, list[int]] | None = None,
) -> Claim:
    """That of each group the units which score highest are left, by the weights as they were.

    A group is a pair: what tells its units apart, and what they are scored by. A unit's score is the sum over its weights
    of linear layers and layer norms: of squares, or of |weight · gradient|. What is `drawn` is drawn anew in the same
    order. Of a tensor in `columns` only these were left when its rows were ranked.
    """
    import torch

    whole = originals(before, work, name)
    generator = torch.Generator().manual_seed(work.seed)
    values = _values(work, name, importance) if whole and importance != "random" else {}
    now = named_tensors(work.model)
    wrong = left = total = 0

    def those(member: Member, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = tensors[member.tensor]
        return found[:, columns[member.tensor]] if columns and member.tensor in columns and not member.dim else found

    for told, scored in groups if whole else ():
        if importance == "random":
            scores = (drawn or _one_each)(told, whole, generator)
        else:
            counting = [member for member in scored if member.tensor in values]
            scores = torch.stack([_sums(those(member, values), member) for member in counting]).sum(0)
        old = {member.tensor: those(member, whole) for member in told}
        kept = set(survivors(units(told, old), units(told, now))) - {-1}
        gone = [float(scores[unit]) for unit in range(len(scores)) if unit not in kept]
        least = min((float(scores[unit]) for unit in kept), default=0.0)
        wrong += sum(score > least * (1 + 1e-4) for score in gone)
        left, total = left + len(kept), total + len(scores)
    by = {"l2": "the norm of their weights", "taylor": "|weight · gradient|", "random": "what was drawn"}[importance]
    return Claim(
        f"those are left that score highest by {by}",
        0 < left < total and not wrong,
        f"{left} of {total} in {len(groups)} groups; {wrong} of the others score more than the least of them",
    )


Draw = Callable[[Group, Mapping[str, "torch.Tensor"], "torch.Generator"], "torch.Tensor"]
"""Draws scores for the units of a group of tensors."""


def _one_each(group: Group, tensors: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.rand(tensors[group[0].tensor].shape[group[0].dim] // group[0].size, generator=generator)


def _sums(values: torch.Tensor, member: Member) -> torch.Tensor:
    """What `values` of one tensor sum up to for each unit."""
    others = [dim for dim in range(values.dim()) if dim != member.dim]
    along = values.double().sum(others) if others else values.double()
    return along.view(-1, member.size).sum(1)


def _values(work: Work, name: str, importance: Importance) -> dict[str, torch.Tensor]:
    """By tensor, of the weights that count: their squares, or their product with the gradient on the training items."""
    import torch
    from torch import nn

    from bench.models.modes import evaluating

    model: nn.Module = work.state[name]
    modules = [module for module in model.modules() if isinstance(module, nn.Linear | nn.LayerNorm)]
    count = {id(module.weight) for module in modules if module.weight is not None}
    weights = {plain(tensor): parameter for tensor, parameter in model.named_parameters() if id(parameter) in count}
    if importance == "l2":
        return {tensor: weight.detach().float().square() for tensor, weight in weights.items()}
    model.to(work.device).requires_grad_(True)
    sums = {tensor: torch.zeros_like(weight) for tensor, weight in weights.items()}
    with evaluating(model), torch.enable_grad():
        for batch in _replay.batches(work, Calibration(128)):
            loss = work.task.criterion(model(**batch.inputs), batch)
            found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True, allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                total += gradient
    return {tensor: (weight.detach() * sums[tensor]).abs().cpu() for tensor, weight in weights.items()}


def survivors(old: torch.Tensor, new: torch.Tensor) -> list[int]:
    """Which of the `old` rows each `new` row is, each used once and in order; -1 for one that is none of them."""
    import torch

    def keys(rows: torch.Tensor) -> list[bytes]:
        return [row.contiguous().view(torch.uint8).numpy().tobytes() for row in rows.cpu()]

    there, found, at = keys(old), [], 0
    for key in keys(new):
        try:
            found.append(there.index(key, at))
            at = found[-1] + 1
        except ValueError:
            found.append(-1)
    return found


# -- what a user would ship


def save(model: nn.Module, folder: Path) -> bool:
    """Where ``from_pretrained`` could not build the shapes from the configuration, pickle the whole model.

    It is read back by ``torch.load(folder / "model.pt", weights_only=False)``.
    """
    from bench.measure import size
    from bench.models.architecture import told_by_config

    if hasattr(model, "peft_config") or told_by_config(model):
        return False
    return size.whole(model, folder)
