"""What quantization methods share: where they can stand, and the proof of what they did. No torch until a hook runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.recipe.declarations import Fact
from bench.recipe.facts import stages_in_effect
from bench.stage.evidence import Claim, digest
from methods import _coverage, _refusals

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.plan.context import PlanContext
    from bench.stage.evidence import Snapshot
    from bench.stage.work import Work


REFUSES: tuple[tuple[Fact, str], ...] = (
    ("adapter", _refusals.ADAPTER),
    ("quantized", "the weights are quantized already; leave one of the two out"),
)
"""What has no plain weights."""


def save(model: nn.Module, folder: Path) -> bool:
    """Write weights that a safetensors file has no place for, and the configuration, without which nothing loads them."""
    import torch

    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if hasattr(model, "config"):
        model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    return True


def casting(context: PlanContext, held: str = "these weights are held as bytes") -> Iterator[str]:
    """What keeps a layer from being replaced: code that casts activations to the type of its weight."""
    if casts := context.structure.casts:
        yield f"the code of {' and '.join(casts)} casts activations to the type of a weight, and {held}; use bnb_int8 or torch_int8_dynamic"


ONE_INPUT = "torchao cannot scale the rows of layers with a single input, as factors of rank 1 are; use bnb_int8 or torch_int8_dynamic"
"""Why torchao's int8 leaves such a layer alone."""


def one_input(context: PlanContext) -> Iterator[str]:
    """What keeps torchao's int8 from a layer with a single input."""
    if any(getattr(stage.main, "rank", None) == 1 for stage in stages_in_effect(context.before)):
        yield ONE_INPUT


def by_block(model: nn.Module) -> Iterator[dict[str, nn.Linear]]:
    """The linear layers of each block, by their names in `model`."""
    from bench.models.architecture import block_linears, blocks

    names = {layer: path for path, layer in block_linears(model).items()}
    for block in blocks(model):
        yield {names[module]: module for module in block.modules() if module in names}


def replace(work: Work, name: str, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put ``make(layer)`` in the place of each linear layer of the blocks."""
    from bench.models.architecture import as_linear

    as_linear(work.model)
    for block in by_block(work.model):
        for path, layer in block.items():
            put(work, name, path, layer, make(layer))


def put(work: Work, name: str, path: str, layer: nn.Linear, made: nn.Module) -> None:
    """Put what the method called `name` made of `layer` in its place."""
    remember(work, name, path, layer)
    work.model.set_submodule(path, made.train(layer.training))


def remember(work: Work, name: str, path: str, layer: nn.Linear) -> None:
    """Keep weight and bias of `layer` in main memory, for the evidence of the method called `name`."""
    aside = work.state.setdefault(name, {})
    aside |= {f"{path}.{tensor}": value.detach().cpu() for tensor, value in layer.named_parameters(recurse=False)}


# -- evidence


def linears(before: Snapshot, work: Work) -> set[str]:
    """The names of the layers that there were in the blocks, as their weights' names tell."""
    return {name.removesuffix(".weight") for name in _coverage.matrices(before, work.model)}


def originals(before: Snapshot, work: Work, name: str, what: str = "weight") -> dict[str, torch.Tensor]:
    """The remembered weights, or biases, by layer, on the device: those bit-identical with what was there before."""
    return {
        tensor.removesuffix(f".{what}"): value.to(work.device)
        for tensor, value in work.state.get(name, {}).items()
        if tensor.endswith(f".{what}") and before.digests.get(plain(tensor)) == digest(value)
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
    name: str,
    what: str,
    is_quantized: Callable[[nn.Module], bool],
    size: Callable[[Any], int],
    *,
    biases_in: torch.dtype | None = None,
) -> Iterator[Claim]:
    """The blocks' linear layers are `what`, all of them and no others, in ``size(layer)`` bytes; all else is unchanged.

    `name` is of the method that remembered them; biases may be cast to `biases_in`.
    """
    from bench.measure.memory import storage_bytes

    found: dict[str, Any] = {plain(path): module for path, module in work.model.named_modules() if is_quantized(module)}
    yield _coverage.covers(before, work, {f"{path}.weight" for path in found}, what)
    layers = {f"{path}.{tensor}" for path in linears(before, work) for tensor in ("weight", "bias")}
    others = before.changed(work.after) - layers
    yield Claim("nothing else changed", not others, f"{len(others)} other tensors changed")
    yield same_inputs(before, work, linears(before, work))
    yield _biased(before, work, name, found, biases_in)
    biases = sum(0 if (bias := _bias(layer)) is None else bias.nbytes for layer in found.values())
    held = sum(storage_bytes(layer) for layer in found.values()) - biases
    total = sum(layer.in_features * layer.out_features for layer in found.values())
    yield Claim(
        "they take the bytes of their codes and scales",
        0 < held == sum(map(size, found.values())),
        f"{held:,} B, {8 * held / max(total, 1):.3g} bits a weight; the model {before.bytes:,} → {work.after.bytes:,} B",
    )


def _bias(layer: Any) -> torch.Tensor | None:
    """A layer's bias, whether it is a parameter or, as in torch's own quantized layers, asked for."""
    return layer.bias() if callable(layer.bias) else layer.bias  # type: ignore[no-any-return]


def _biased(before: Snapshot, work: Work, name: str, layers: dict[str, Any], cast: torch.dtype | None) -> Claim:
    """To inputs of zeros each layer answers the bias that there was, to the precision that it computes in."""
    import torch

    from bench.models.modes import evaluating

    were = {plain(path): bias for path, bias in originals(before, work, name, "bias").items()}
    had = {path for path in layers if f"{path}.bias" in before.shapes}
    right = 0
    for path, layer in layers.items():
        bias, was = _bias(layer), were.get(path)
        nothing = torch.zeros(1, layer.in_features, device=work.device)
        if bias is None or was is None:
            kept, wanted = bias is None and path not in had, nothing.new_zeros(layer.out_features)
        else:
            kept, wanted = bias.dtype in (was.dtype, cast) and torch.equal(bias.detach(), was.to(bias.dtype)), was
        with evaluating(layer), torch.no_grad():
            given = layer(nothing.to(wanted.dtype))[0]
        right += kept and bool(((given - wanted).abs() <= wanted.abs() / 2**8).all())
    return Claim(
        "each of them adds the bias that it had, once",
        0 < right == len(layers),
        f"{right} of {len(layers)}, {len(had)} have one",
    )


def rounded(
    before: Snapshot,
    work: Work,
    name: str,
    what: str,
    expected: Callable[[torch.Tensor], torch.Tensor],
    *,
    noise: float = 2.0**-22,
    read: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
) -> Claim:
    """Each layer multiplies by the weights that there were before, each rounded to what `expected` says.

    Half-way between two values, either will do.

    Args:
        before: the model before rounding.
        work: the model after it.
        name: of the method that remembered the weights.
        what: the weights were rounded to.
        expected: gives for a layer's weight, in float32, what rounding makes of it.
        noise: what computing adds to a weight at most, relative to the largest of its row.
        read: gives what a layer multiplies by, where its answers to the unit vectors do not tell.
    """

    modules = dict(work.model.named_modules())
    remembered = originals(before, work, name)
    wrong = total = 0
    squares, norm, longer = 0.0, 0.0, 0.0
    for path, original in remembered.items():
        weight = original.float()
        wanted, found = expected(weight), (read or effective)(modules[path], original)
        squares += float((found - weight).square().sum())
        norm += float(weight.square().sum())
        limit = noise * weight.abs().amax(1, keepdim=True)
        near = (found - wanted).abs() <= limit
        # Where half a step lies depends on the last bits of the scale, some hundred times over.
        tie = ((found - weight).abs() - (wanted - weight).abs()).abs() <= 16 * limit
        wrong, total = wrong + int((~near & ~tie).sum()), total + weight.numel()
        # What makes all of them longer, by less than the noise of one, shows in their sum.
        found, wanted = found[near], wanted[near]
        factor = float((found * wanted).sum() / wanted.square().sum()) if bool(wanted.any()) else 1.0
        longer = max(longer, abs(factor - 1))
    share = (squares / norm) ** 0.5 if norm else 0.0
    return Claim(
        f"each layer multiplies by its weights rounded to {what}",
        len(remembered) == len(linears(before, work)) and not wrong and longer <= max(noise / 8, 1e-6),
        f"{wrong:,} of {total:,} weights in {len(remembered)} layers are not; {100 * share:.2g} % RMS error, longer by {longer:.1g}",
    )


def symmetric(weight: torch.Tensor, steps: float, low: int, high: int, least: float = 2**-23) -> torch.Tensor:
    """Each row in steps of its largest magnitude's `steps`-th, to the nearest, from `low` to `high` steps.

    No step is shorter than `least`: torch's quantizers have none shorter than float32's epsilon.
    """
    step = (weight.abs().amax(1, keepdim=True) / steps).clamp(min=least)
    return (weight / step).round().clamp(low, high) * step


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


def activations(before: Snapshot, work: Work, name: str, *, gone: float | None, kept: float) -> Claim:
    """To each layer an input of `removal_evidence` beside 1 is 0, being less than half a step, and one of `kept` is not.

    Where `removal_evidence` is None, no layer rounds its inputs.
    """
    modules = dict(work.model.named_modules())
    weights = originals(before, work, name)
    # A layer with a single input, as factors of rank 1 are, has nothing beside it.
    layers = [(modules[path], weight) for path, weight in weights.items() if weight.shape[1] > 1]
    dropped = sum(gone is not None and drops(*layer, gone) for layer in layers)
    left = sum(not drops(*layer, kept) for layer in layers)
    return Claim(
        "none of them rounds its inputs"
        if gone is None
        else f"each of them rounds {gone:.2g} beside 1 to 0, not {kept:.2g}",
        bool(layers) and left == len(layers) and (gone is None or dropped == len(layers)),
        f"{dropped if gone is not None else len(layers) - left} of {len(layers)} do" + f", {left} take {kept:.2g}",
    )


def drops(layer: nn.Module, like: torch.Tensor, value: float) -> bool:
    """Whether `layer` takes `value` beside 1 for 0. `like` as above."""
    import torch

    inputs = torch.zeros(2, like.shape[1], dtype=like.dtype, device=like.device)
    # Beside the input whose weights are the largest of their rows: one whose weights are rounded to zero tells nothing.
    shares = (like.float().abs() / like.float().abs().amax(1, keepdim=True).clamp(min=1e-30)).amax(0)
    told = int(shares.argmax())
    inputs[:, 1 if told == 0 else 0] = 1
    inputs[1, told] = value
    with torch.no_grad():
        first, second = layer(inputs)
    return torch.equal(first, second)
