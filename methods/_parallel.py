"""What methods that divide a batch among processes share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.evidence import Claim
from methods import _gradients

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.loop import ComputeGradients, Training
    from bench.method import Split
    from bench.tasks.base import Batch


MODELS = ("bert", "electra", "llama", "mistral", "qwen2", "roberta")
"""transformers' model types that dividing layers or blocks is tested on. Others may have weights in between, as Qwen3's
norms of heads."""


def sliced(training: Training, name: str, split: Split, compute: ComputeGradients) -> ComputeGradients:
    """For the method `name`: this process's slice alone, weighted so that the mean over all of them is the batch's."""
    training.notes[name] = compute

    def gradients(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        part, weight = training.group.part(batch, split)
        return compute(part, scale * weight) * weight

    return gradients


def alive(work: Training, split: Split) -> Claim:
    """As many processes are alive as divide the stage so."""
    n = work.stage.layout[split]
    here = work.group.first
    # Those of another machine can be looked for there alone, which they do themselves.
    said = set(work.group.everyone((here, os.getpid()), split))
    found = sum(machine != here or _alive(pid) for machine, pid in said)
    return Claim(f"{n} processes train together", found == n, f"{found} are alive")


@contextlib.contextmanager
def items(model: nn.Module) -> Iterator[list[list[list[int]]]]:
    """The token ids of the items that go into `model`'s body, of each pass forward inside."""
    from bench.architecture import body

    seen: list[list[list[int]]] = []

    def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((named["input_ids"] if "input_ids" in named else args[0]).tolist())

    hook = body(model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def claims(work: Training, name: str, split: Split) -> Iterator[Claim]:
    """The processes are alive, each works on its own items, and together on all of the batch, to its gradient."""
    import torch

    from bench.work import evaluating

    group = work.group
    yield alive(work, split)

    with evaluating(work.model):  # dropout would draw differently for slice and whole
        with items(work.model) as seen:
            ours = gradient(work, work.gradients)
        # All processes with the whole batch: where they exchange gradients, the mean of equal ones is the same.
        all_of_it = gradient(work, work.notes.get(name, work.gradients))
    everyone = [[row for rows in each for row in rows] for each in group.everyone(seen, "replicas", "shards")]
    everything = sorted(row for rows in everyone for row in rows)
    expected = sorted(work.probe.inputs["input_ids"].tolist())
    if "layers" in work.stage.layout and everything:  # each piece of the model that a process has sees them once
        expected = sorted(expected * (len(everything) // len(expected)))
    sizes = ", ".join(str(len(rows)) for rows in everyone)
    yield Claim(
        "each process works on its own items, and all on each item once",
        everything == expected and all(len(rows) * len(everyone) == len(expected) for rows in everyone),
        f"{sizes} of {len(expected)} items",
    )
    if work.exact:
        error = float(torch.linalg.vector_norm(ours - all_of_it) / torch.linalg.vector_norm(all_of_it))
        limit = 1e-4 if work.compute_dtype == torch.float32 else 3e-2
        yield Claim(
            "the gradient is the whole batch's", error <= limit, f"relative difference {error:.1e}, at most {limit:g}"
        )


def gradient(work: Training, compute: ComputeGradients) -> torch.Tensor:
    """The probe batch's gradient by `compute`, whole where it is sharded."""
    import torch

    work.optimizer.zero_grad(set_to_none=True)
    # Without fp16's scale, which may be too large at this moment.
    compute(work.probe, 2**-10 if work.compute_dtype == torch.float16 else 1.0)
    return _gradients.taken(work)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
