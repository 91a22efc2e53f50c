"""What methods that divide a batch among processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.evidence import Claim, whole

if TYPE_CHECKING:
    import torch

    from bench.loop import ComputeGradients, Training
    from bench.method import Split
    from bench.tasks.base import Batch


def sliced(training: Training, name: str, compute: ComputeGradients) -> ComputeGradients:
    """For the method `name`: this process's slice alone, weighted so that the mean over all processes is the batch's."""
    training.notes[name] = compute

    def gradients(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        part, weight = training.group.part(batch)
        return compute(part, scale * weight) * weight

    return gradients


def alive(work: Training, split: Split) -> Claim:
    """As many processes are alive as divide the stage so."""
    n = work.stage.layout[split]
    pids = [pid for pid in work.group.everyone(os.getpid(), split) if _alive(pid)]
    return Claim(f"{n} processes train together", len(set(pids)) == n, f"{len(set(pids))} are alive")


def claims(work: Training, name: str, split: Split) -> Iterator[Claim]:
    """The processes are alive, each works on its own items, and together on all of the batch, to its gradient."""
    import torch

    from bench.work import evaluating

    group = work.group
    yield alive(work, split)

    seen: list[list[int]] = []
    hook = work.model.register_forward_pre_hook(
        lambda module, args, inputs: seen.extend(inputs["input_ids"].tolist()), with_kwargs=True
    )
    with evaluating(work.model):  # dropout would draw differently for slice and whole
        ours = gradient(work, work.gradients)
        hook.remove()
        # All processes with the whole batch: where they exchange gradients, the mean of equal ones is the same.
        all_of_it = gradient(work, work.notes.get(name, work.gradients))
    everyone = [sorted(rows) for rows in group.everyone(seen, split)]
    everything = sorted(row for rows in everyone for row in rows)
    expected = sorted(work.probe.inputs["input_ids"].tolist())
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
    # What is frozen or unused in one process is so in all, so that all gather the same ones.
    flat = [whole(parameter.grad).float().flatten() for parameter in work.parameters if parameter.grad is not None]
    work.optimizer.zero_grad(set_to_none=True)
    return torch.cat(flat)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
