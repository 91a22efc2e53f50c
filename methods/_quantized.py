"""What quantization methods share: where they can stand, and the proof of what they did. No torch until a hook runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any

from bench.evidence import Claim, digest, plain
from bench.method import standing
from methods._models import linear_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.evidence import Snapshot
    from bench.method import Place
    from bench.work import Work


def problems(place: Place, name: str) -> Iterator[str]:
    """What keeps the method called `name` from finding plain weights."""
    if "adapter" in place.facts:
        yield f"there is an adapter on the weights; {place.fold(name)}"
    if "quantized" in place.facts:
        yield "the weights are quantized already; leave one of the two out"
    yield from linear_blocks(place)


def casting(place: Place, held: str = "these weights are held as bytes") -> Iterator[str]:
    """What keeps a layer from being replaced: code that casts activations to the type of its weight."""
    if casts := place.structure.casts:
        yield f"the code of {' and '.join(casts)} casts activations to the type of a weight, and {held}; use int8 or dynamic_int8"


ONE_INPUT = (
    "torchao cannot scale the rows of layers with a single input, as factors of rank 1 are; use int8 or dynamic_int8"
)
"""Why torchao's int8 leaves such a layer alone."""


def one_input(place: Place) -> Iterator[str]:
    """What keeps torchao's int8 from a layer with a single input."""
    if any(getattr(stage.base, "rank", None) == 1 for stage in standing(place.before)):
        yield ONE_INPUT


def by_block(model: nn.Module) -> Iterator[dict[str, nn.Linear]]:
    """The linear layers of each block, by their names in `model`."""
    from bench.architecture import block_linears, blocks

    names = {layer: path for path, layer in block_linears(model).items()}
    for block in blocks(model):
        yield {names[module]: module for module in block.modules() if module in names}


def replace(work: Work, name: str, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put ``make(layer)`` in the place of each linear layer of the blocks."""
    from bench.architecture import as_linear

    as_linear(work.model)
    for block in by_block(work.model):
        for path, layer in block.items():
            put(work, name, path, layer, make(layer))


def put(work: Work, name: str, path: str, layer: nn.Linear, made: nn.Module) -> None:
    """Put what the method called `name` made of `layer` in its place."""
    remember(work, name, path, layer)
    work.model.set_submodule(path, made.train(layer.training))


def remember(work: Work, name: str, path: str, layer: nn.Linear) -> None:
    """Keep the weight of `layer` in main memory, for the evidence of the method called `name`."""
    work.notes.setdefault(name, {})[path] = layer.weight.detach().cpu()


# -- evidence


def linears(before: Snapshot, work: Work) -> set[str]:
    """The names of the linear layers that there were in the blocks."""
    from bench.architecture import blocks

    inside = {id(module) for block in blocks(work.model) for module in block.modules()}
    modules = {plain(path): id(module) for path, module in work.model.named_modules()}
    return {path for path, kind in before.classes.items() if kind.endswith("Linear") and modules.get(path) in inside}


def originals(before: Snapshot, work: Work, name: str) -> dict[str, torch.Tensor]:
    """The remembered weights, on the device, that are bit-identical with what was there before."""
    return {
        path: weight.to(work.device)
        for path, weight in work.notes.get(name, {}).items()
        if before.digests.get(f"{plain(path)}.weight") == digest(weight)
    }


def calls(work: Work, of: Callable[[nn.Module], bool]) -> Counter[nn.Module]:
    """How often the probe batch goes through each module that `of` holds for: some architectures call a layer twice."""
    found: Counter[nn.Module] = Counter()
    hooks = [
        module.register_forward_hook(lambda module, args, output: found.update([module]))
        for module in work.model.modules()
        if of(module)
    ]
    try:
        work.outputs(work.probe)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def same_inputs(before: Snapshot, work: Work, names: Set[str]) -> Claim:
    """That the layers called `names` are given numbers of the same type as before: no model's own code cast them."""
    was, now = before.inputs, work.after.inputs
    other = {name for name in names if was.get(name) != now.get(name)}
    types = sorted({now[name] for name in names if name in now})
    return Claim(
        "what is given to each layer is of the type that it was before",
        names <= was.keys() and not other and all("float" in each for each in types),
        f"{len(names) - len(other)} of {len(names)} layers, {', '.join(types) or 'nothing was seen'}",
    )


def claims(
    before: Snapshot,
    work: Work,
    what: str,
    is_quantized: Callable[[nn.Module], bool],
    size: Callable[[Any], int],
) -> Iterator[Claim]:
    """The blocks' linear layers are `what`, all of them and no others, in ``size(layer)`` bytes; all else is unchanged."""
    from bench.measure.memory import storage_bytes

    wanted = linears(before, work)
    found: dict[str, Any] = {plain(path): module for path, module in work.model.named_modules() if is_quantized(module)}
    yield Claim(
        f"the blocks' linear layers are {what}, and no others",
        bool(wanted) and found.keys() == wanted,
        f"{len(found.keys() & wanted)} of {len(wanted)}, {len(found.keys() - wanted)} others",
    )
    others = {path for path in before.changed(work.after) if path.rpartition(".")[0] not in wanted}
    yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")
    yield same_inputs(before, work, wanted)
    biases = sum(0 if layer.bias is None else layer.bias.nbytes for layer in found.values())
    held = sum(storage_bytes(layer) for layer in found.values()) - biases
    weights = sum(layer.in_features * layer.out_features for layer in found.values())
    yield Claim(
        "they take the bytes of their codes and scales",
        0 < held == sum(map(size, found.values())),
        f"{held:,} B, {8 * held / max(weights, 1):.3g} bits a weight; the model {before.bytes:,} → {work.after.bytes:,} B",
    )


def rounded(
    before: Snapshot,
    work: Work,
    name: str,
    what: str,
    *,
    levels: int,
    rows: Callable[[torch.Tensor], torch.Tensor],
    bound: Callable[[torch.Tensor], torch.Tensor],
    precision: torch.dtype | None = None,
) -> Claim:
    """Each layer multiplies by the weight that there was before, rounded to one of a few values.

    Args:
        before: the model before rounding.
        work: the model after it.
        name: of the method that remembered the weights.
        what: the weights were rounded to.
        levels: how many values there are for weights that share a scale.
        rows: reshapes a weight so that those which share a scale are one row.
        bound: of such rows, how far off rounding may be.
        precision: what the layer computes in, where that is less than what it is given.
    """
    import torch

    modules = dict(work.model.named_modules())
    remembered = originals(before, work, name)
    most, worst, squares, total = 0, 0.0, 0.0, 0.0
    for path, original in remembered.items():
        weights, found = rows(original.float()), rows(effective(modules[path], original))
        most = max(most, 1 + int(found.sort(1).values.diff().ne(0).sum(1).max()))
        error, limit = (found - weights).abs(), bound(weights)
        noise = max(torch.finfo(dtype).eps for dtype in (precision, original.dtype) if dtype)
        worst = max(worst, float((error / (limit + noise * (weights.abs() + limit))).max()))
        squares += float(error.square().sum())
        total += float(weights.square().sum())
    share = (squares / total) ** 0.5 if total else 0.0
    return Claim(
        f"each layer multiplies by its weights rounded to {what}",
        len(remembered) == len(linears(before, work)) and 0 < worst <= 1.001 and most <= levels,
        f"{100 * share:.2g} % RMS error, the largest {worst:.2g} of what rounding allows; {most} values a scale",
    )


def grouped(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of `size` weights; where a row of `weight` is no whole number of them, the last is filled up with zeros."""
    import torch

    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % size)).reshape(-1, size)


def effective(layer: nn.Module, like: torch.Tensor) -> torch.Tensor:
    """What `layer` multiplies by, read off its answers to the unit vectors, in float32.

    `like` is of the shape of the weight and of the type of the inputs.
    """
    import torch

    bias, was, layer.bias = layer.bias, layer.training, None  # type: ignore[assignment]
    try:
        with torch.no_grad():
            found: torch.Tensor = layer.eval()(torch.eye(like.shape[1], dtype=like.dtype, device=like.device))
    finally:
        layer.train(was).bias = bias
    return found.float().T


def activations(before: Snapshot, work: Work, name: str, *, rounded: bool) -> Claim:
    """Each layer rounds its activations to 8 bits, or none does."""
    modules = dict(work.model.named_modules())
    found = [rounds_activations(modules[path], weight) for path, weight in originals(before, work, name).items()]
    return Claim(
        "each of them rounds its activations to 8 bits" if rounded else "none of them rounds its activations",
        bool(found) and all(answer == rounded for answer in found),
        f"{sum(found)} of {len(found)} do",
    )


def rounds_activations(layer: nn.Module, like: torch.Tensor) -> bool:
    """Whether `layer` takes 0.003 beside 1 for 0, which is less than half a step of 8 bits. `like` as above."""
    import torch

    inputs = torch.zeros(2, like.shape[1], dtype=like.dtype, device=like.device)
    inputs[:, 0] = 1
    inputs[1, 1] = 3e-3
    with torch.no_grad():
        first, second = layer(inputs)
    return torch.equal(first, second)
