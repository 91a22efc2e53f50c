"""What methods that divide a batch among processes share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.models.names import plain
from bench.stage.evidence import Claim, digest
from methods import _gradients

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.recipe.declarations import Axis
    from bench.stage.loop import ComputeGradients, Training
    from bench.tasks.base import Batch


MODELS = ("bert", "electra", "llama", "mistral", "qwen2", "roberta")
"""transformers' model types that dividing layers or blocks is tested on. Others may have weights in between, as Qwen3's
norms of heads."""


def sliced(training: Training, name: str, axis: Axis, compute: ComputeGradients) -> ComputeGradients:
    """For the method `name`: this process's slice alone, weighted so that the mean over all of them is the batch's."""
    training.state[name] = compute

    def gradients(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        part, weight = training.group.part(batch, axis)
        return compute(part, scale * weight) * weight

    return gradients


def alive(work: Training, axis: Axis) -> Claim:
    """As many processes are alive as divide the stage so."""
    n = work.stage.layout[axis]
    here = work.group.first
    # Those of another machine can be looked for there alone, which they do themselves.
    said = set(work.group.all_gather((here, os.getpid()), axis))
    found = sum(machine != here or _alive(pid) for machine, pid in said)
    return Claim(f"{n} processes train together", found == n, f"{found} are alive")


@contextlib.contextmanager
def items(model: nn.Module) -> Iterator[list[list[list[int]]]]:
    """The token ids of the items that go into `model`'s body, of each pass forward inside."""
    from bench.models.architecture import body

    seen: list[list[list[int]]] = []

    def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((named["input_ids"] if "input_ids" in named else args[0]).tolist())

    hook = body(model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def claims(work: Training, name: str, axis: Axis) -> Iterator[Claim]:
    """The processes are alive, each works on its own items, and together on all of the batch, to its gradient."""
    import torch

    from bench.models.modes import evaluating

    group = work.group
    yield alive(work, axis)

    yield drawing(work, axis, alike=False)
    with evaluating(work.model):  # dropout would draw differently for slice and whole
        with items(work.model) as seen:
            told, ours = gradient(work, work.gradients)
        # All processes with the whole batch: where they exchange gradients, the mean of equal ones is the same.
        loss, all_of_it = gradient(work, work.state.get(name, work.gradients))
    # Where layers or blocks are divided too, a process's gradient is of its parts.
    if work.exact and work.stage.layout.keys() <= {"replicas", "shards"}:
        remember(work, name, ours)
    gathered = [[row for rows in each for row in rows] for each in group.all_gather(seen, "replicas", "shards")]
    everything = sorted(row for rows in gathered for row in rows)
    expected = sorted(work.probe.inputs["input_ids"].tolist())
    if "layers" in work.stage.layout and everything:  # each piece of the model that a process has sees them once
        expected = sorted(expected * (len(everything) // len(expected)))
    sizes = ", ".join(str(len(rows)) for rows in gathered)
    yield Claim(
        "each process works on its own items, and all on each item once",
        everything == expected and all(len(rows) * len(gathered) == len(expected) for rows in gathered),
        f"{sizes} of {len(expected)} items",
    )
    limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
    of_slices, of_batch = (sum(each) / len(each) for each in zip(*group.all_gather((told, loss)), strict=True))
    yield Claim(
        "the mean of the losses that they tell is the whole batch's",
        abs(of_slices - of_batch) <= limit * max(1.0, abs(of_batch)),
        f"{of_slices:.6g} against {of_batch:.6g}",
    )
    if work.exact:
        error = float(torch.linalg.vector_norm(ours - all_of_it) / torch.linalg.vector_norm(all_of_it))
        yield Claim(
            "the gradient is the whole batch's", error <= limit, f"relative difference {error:.1e}, at most {limit:g}"
        )


def drawing(work: Training, axis: Axis, *, alike: bool) -> Claim:
    """Whether the processes of `axis` draw the same random numbers, as they must where they work on the same items."""
    import torch

    state = torch.cuda.get_rng_state() if work.device.type == "cuda" else torch.get_rng_state()
    gathered = work.group.all_gather(digest(state), axis)
    distinct = len(set(gathered))
    return Claim(
        "the processes drop the same" if alike else "each process drops what its own random numbers say",
        distinct == (1 if alike else len(gathered)),
        f"{distinct} states of the random numbers in {len(gathered)} processes",
    )


def remember(work: Training, name: str, ours: torch.Tensor) -> None:
    """Put the gradient of a step aside, for :func:`whole_gradient`."""
    work.state[f"{name} gradient"] = ours.cpu()


def whole_gradient(work: Training, name: str) -> Iterator[Claim]:
    """Of the model when it is whole again in this process alone: its gradient is what all had computed together."""
    import torch

    from bench.models.modes import evaluating

    ours: torch.Tensor | None = work.state.get(f"{name} gradient")
    # In fp16 a gradient is scaled by what has changed since.
    if ours is None or work.compute_dtype == torch.float16:
        return
    trained = [parameter for parameter in work.model.parameters() if parameter.requires_grad]
    with evaluating(work.model):
        slopes = torch.autograd.grad(work.loss(work.probe), trained, allow_unused=True)
    there = [slope.float().flatten().cpu() for slope in slopes if slope is not None]
    whole = torch.cat(there)
    limit = 1e-3 if work.compute_dtype == torch.float32 else 5e-2
    wrong = len(there)
    if whole.shape == ours.shape:
        floor = 1e-5 * float(whole.norm())
        pairs = zip(ours.split([len(slope) for slope in there]), there, strict=True)
        wrong = sum(float((mine - slope).norm()) > limit * float(slope.norm()) + floor for mine, slope in pairs)
    yield Claim(
        "what they computed together was the gradient that one process computes alone",
        not wrong,
        f"{len(there) - wrong} of {len(there)} tensors",
    )


def same_weights(work: Training) -> Claim:
    """The model's weights are bit for bit those that the processes held when all had proven what they hold."""
    named = {plain(name): parameter for name, parameter in work.model.named_parameters()}
    before = work.after.digests
    right = sum(before.get(name) == digest(parameter) for name, parameter in named.items() if name in before)
    of = len(named.keys() & before.keys())
    return Claim("gathered are the weights that the processes held", right == of > 0, f"{right} of {of} tensors")


def gradient(work: Training, compute: ComputeGradients) -> tuple[float, torch.Tensor]:
    """The loss that `compute` tells, and the probe batch's gradient by it, whole where it is sharded."""
    import torch

    work.optimizer.zero_grad(set_to_none=True)
    # Without fp16's scale, which may be too large at this moment.
    loss = float(compute(work.probe, 2**-10 if work.compute_dtype == torch.float16 else 1.0))
    return loss, _gradients.taken(work)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
