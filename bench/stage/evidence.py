"""Evidence that a method was really applied: claims, and the snapshots they are read from.

A method's ``evidence`` looks at the model before and after, and at the live training, never at what its own hooks
report. A stage with one claim that does not hold ends ``invalid``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.recipe.claim import Claim as Claim

if TYPE_CHECKING:
    import torch

    from bench.recipe.method import Method
    from bench.stage.loop import Training


def claims(method: Method, hook: str, *given: Any) -> list[tuple[str, Claim]]:
    """What `method` claims by one of its hooks that prove, each with the method's name; `given` goes to the hook.

    A method that has the hook and claims nothing by it, because what it looked for was not there, has not proven
    anything: that is a claim which does not hold.
    """
    from bench.recipe.method import Transform  # which has all of these hooks, and proves nothing by them

    found = [(method.name, claim) for claim in getattr(method, hook)(*given)]
    if not found and getattr(type(method), hook) is not getattr(Transform, hook):
        found.append((method.name, Claim(f"`{hook}` proves something", False, "it claims nothing")))
    return found


@dataclass(frozen=True)
class Snapshot:
    """A model at one moment, in little memory.

    Tensors (parameters and buffers) are known by :func:`plain` names. ``digests`` tell whether two are
    bit-identical, ``projections`` whether two plain matrices of numbers are the same but for rounding, ``nonzero``
    counts elements, ``classes`` maps each module's name to its class, ``bytes`` is the
    storage that all tensors take together, ``logits`` is the output on the probe batch in evaluation mode, and
    ``inputs`` are the types of numbers that each layer was given to make it, by the layer's name.
    """

    digests: Mapping[str, str]
    projections: Mapping[str, torch.Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    nonzero: Mapping[str, int]
    classes: Mapping[str, str]
    bytes: int
    logits: torch.Tensor | None
    inputs: Mapping[str, str] = field(default_factory=dict)

    def same(self, other: Snapshot) -> set[str]:
        """Names of the tensors that both have, bit-identical."""
        return {name for name, digest in self.digests.items() if other.digests.get(name) == digest}

    def changed(self, other: Snapshot) -> set[str]:
        """Names of the tensors that both have and that differ."""
        return {name for name, digest in self.digests.items() if other.digests.get(name, digest) != digest}


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by plain name. PEFT's stale copies of trained modules are left out."""
    both = [*model.named_parameters(), *model.named_buffers()]
    # PEFT holds a model with learned prompts directly, and one with adapters a level deeper.
    extra = "base_model." if any(name.endswith("prompt_encoder") for name, _ in model.named_modules()) else ""
    return {plain(name.replace(extra, "", 1)): tensor for name, tensor in both if ".original_module." not in name}


def take(model: torch.nn.Module, logits: torch.Tensor | None, inputs: Mapping[str, str] | None = None) -> Snapshot:
    """A snapshot of `model`."""
    import torch

    from bench.measure.memory import nonzero, storage_bytes

    tensors = named_tensors(model)
    with torch.no_grad():
        return Snapshot(
            digests={name: digest(tensor) for name, tensor in tensors.items()},
            projections={name: projection(tensor) for name, tensor in tensors.items() if _plain_matrix(tensor)},
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
            nonzero={name: nonzero(tensor) for name, tensor in tensors.items()},
            classes={plain(name): type(module).__name__ for name, module in model.named_modules()},
            bytes=storage_bytes(model),
            logits=logits,
            inputs=inputs or {},
        )


@contextlib.contextmanager
def input_types(model: torch.nn.Module) -> Iterator[dict[str, str]]:
    """The type of numbers that each module is given inside, by its plain name; nothing where the model is compiled.

    What is called several times has all the types, in order.
    """
    import torch

    seen: dict[str, dict[str, None]] = {}
    found: dict[str, str] = {}
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    hooks = []

    def note(name: str, module: torch.nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor):
            seen.setdefault(name, {})[str(args[0].dtype).removeprefix("torch.")] = None

    for name, module in model.named_modules():
        if not compiled:
            hooks.append(module.register_forward_pre_hook(functools.partial(note, plain(name))))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found.update({name: " ".join(types) for name, types in seen.items()})


def digest(tensor: Any) -> str:
    """Equal for two tensors only where they are bit-identical."""
    import torch

    from bench.measure.memory import parts

    found = hashlib.blake2b(digest_size=16)
    for part in parts(whole(tensor).detach()):
        raw = part.contiguous().cpu()
        found.update((raw.reshape(-1) if raw.dim() else raw.reshape(1)).view(torch.uint8).numpy().data)
    return found.hexdigest()


def projection(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix` times one random vector, always the same: as large as a row count, and no two matrices share it."""
    import torch

    vector = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    return (matrix.detach().float() @ vector.to(matrix.device)).cpu()


def _plain_matrix(tensor: torch.Tensor) -> bool:
    import torch

    ours = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    return ours and not is_part(tensor) and tensor.dim() == 2 and tensor.is_floating_point()


def whole(tensor: Any) -> torch.Tensor:
    """The tensor that `tensor` is one process's shard of, which all of them must ask for; itself where it is none."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def difference(found: torch.Tensor | None, wanted: torch.Tensor | None) -> float:
    """How far `found` is from `wanted`, of whose norm; without end where one is not there."""
    return math.inf if found is None or wanted is None else float((found - wanted).norm() / wanted.norm())


def marks(model: torch.nn.Module) -> dict[str, torch.Tensor | str]:
    """What the weights that train are known by, quickly: matrices by their :func:`projection`, vectors by their digest.

    Those of which a process holds a part alone are left out.
    """
    found = {name: tensor for name, tensor in named_tensors(model).items() if tensor.requires_grad}
    return {
        name: projection(tensor) if _plain_matrix(tensor) else digest(tensor)
        for name, tensor in found.items()
        if _plain_matrix(tensor) or (tensor.dim() < 2 and not is_part(tensor) and not hasattr(tensor, "full_tensor"))
    }


def of_training(before: Snapshot, work: Training) -> Iterator[Claim]:
    """What any training proves, whatever its methods: where its batches came from, what was updated, and by what."""
    import torch

    trained = {id(p) for model in (work.model, *work.beside) for p in model.parameters() if p.requires_grad}
    grouped = [id(p) for group in work.optimizer.param_groups for p in group["params"]]
    yield Claim(
        "the optimizer has each weight that trains once, and no other",
        len(grouped) == len(set(grouped)) and set(grouped) == trained,
        f"{len(grouped)} tensors, {len(trained)} train",
    )
    if not (work.trainer.replaces_model or work.trainer.reinitializes):
        arrived = {**before.digests, **before.projections}
        known = work.began.keys() & arrived.keys()
        other = [name for name in known if not _same(work.began[name], arrived[name])]
        yield Claim(
            "the weights that train began as they arrived",
            not other,
            f"{len(known) - len(other)} of {len(known)} tensors",
        )
    drawn = torch.Generator().manual_seed(work.seed)
    options: dict[str, Any] = {"batch_size": work.budget.batch_size, "max_length": work.budget.max_length}
    expected = next(work.task.batches("train", work.tokenizer, generator=drawn, **options))
    found = work.first_batch
    same = found is not None and all(
        torch.equal(found.inputs[name].cpu(), tensor) for name, tensor in expected.inputs.items()
    )
    yield Claim(
        "the first batch was the training split's that the seed draws",
        same and found is not None and torch.equal(found.labels.cpu(), expected.labels),
        f"{expected.samples} items",
    )
    mask = expected.inputs.get("attention_mask")
    real = expected.tokens if mask is None else int(mask.sum())
    # A method may have changed the batch on its way, and says of that how many tokens it has.
    tokens = expected.tokens if any(method.overrides("transform_batch") for method in work.methods) else work.tokens[0]
    yield Claim(
        "its real tokens were counted, and its items",
        expected.tokens == real == tokens and work.samples[0] == len(expected.labels),
        f"{tokens} of {real} tokens, {work.samples[0]} items",
    )
    yield from work.task.evidence(work.model, work.tokenizer, expected, work.budget.max_length)
    first = next((p for p in work.parameters if p.numel()), None)
    work.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
    try:
        if first is not None:
            first.grad = torch.zeros_like(first)
        work.update()
        kept = sum(p.grad is not None for p in work.parameters)
    finally:
        del work.optimizer.step
        work.optimizer.zero_grad(set_to_none=True)
    yield Claim("an update takes the gradients away", not kept, f"{kept} are left")
    if work.made_by is None:
        yield from _default_optimizer(work)


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def _default_optimizer(work: Training) -> Iterator[Claim]:
    """AdamW as torch has it, at the trainer's rate, stepped once for each batch."""
    import torch

    usual = torch.optim.AdamW([torch.zeros(1)]).defaults
    fixed = ("betas", "eps", "amsgrad", "maximize")
    groups = work.optimizer.param_groups
    rates = {float(group.get("initial_lr", group["lr"])) for group in groups}
    right = all(group[name] == usual[name] for group in groups for name in fixed) and rates == {work.trainer.lr}
    yield Claim(
        f"AdamW made the updates, at a rate of {work.trainer.lr:g}",
        type(work.optimizer) is torch.optim.AdamW and right,
        f"{type(work.optimizer).__name__} at {', '.join(f'{rate:g}' for rate in sorted(rates))}",
    )
    taken = max((int(state["step"]) for state in work.optimizer.state.values() if "step" in state), default=0)
    done = len(work.losses)
    # In fp16 a step is skipped where a gradient overflows.
    fewer = work.compute_dtype == torch.float16 and 0 < taken < done
    yield Claim("each batch was followed by an update", taken == done or fewer, f"{taken} updates, {done} batches")


def is_part(tensor: Any) -> bool:
    """Whether `tensor` says of what it is one process's part."""
    return hasattr(tensor, "full_shape")


def whole_numel(tensor: Any) -> int:
    """How many elements it has."""
    return math.prod(getattr(tensor, "full_shape", tensor.shape))
