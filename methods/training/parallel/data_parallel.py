"""Data parallel training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from bench.recipe.method import Modifier
from bench.stage.evidence import Claim, digest
from methods.training.parallel._shared import divided

if TYPE_CHECKING:
    import torch

    from bench.stage.evidence import Snapshot
    from bench.stage.loop import ComputeGradients, ComputeLoss, Training
    from bench.tasks.base import Batch


@dataclass(frozen=True)
class DataParallel(Modifier):
    """Train `n` replicas of the model, each in a process with its own slice of every batch, and average their gradients.

    ``budget.batch_size`` stays the batch of a step over all processes, so recipes with and without it learn from the
    same data; slices are weighted by the terms in their loss, so that the gradient is the whole batch's. Within
    ``accumulate``, gradients are exchanged with the last micro-batch alone. Buffers are not exchanged: transformers
    have none that training changes. On CPUs the machine's threads are divided among the processes. With
    ``fully_sharded(n)`` each replica is divided among n processes (hybrid sharding). Built on
    ``DistributedDataParallel``: https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
    """

    name = "data_parallel"
    paper = "https://arxiv.org/abs/2006.15704"
    example = "full + data_parallel(2)"
    axis = "replicas"
    order = 80  # inside of accumulate, whose micro-batches it divides; outside of what changes the loss

    n: Annotated[int, Ge(1)]

    @property
    def processes(self) -> int:
        """One for each replica."""
        return self.n

    def on_model(self, training: Training) -> None:
        """Put DistributedDataParallel around the model, for the loss to call.

        Shards exchange gradients by themselves; pipelines when all micro-batches are through, for in a pipeline a
        backward pass is not one by which DistributedDataParallel could tell that a gradient is complete.
        """
        from torch.nn.parallel import DistributedDataParallel

        if training.group.layout.keys() & {"layers", "shards"}:
            return
        cuda = training.device.type == "cuda"
        training.forward = DistributedDataParallel(
            training.model,
            device_ids=[training.group.rank - training.group.first] if cuda else None,
            process_group=training.group.processes("replicas"),
            forward_sync_buffers=False,
            find_unused_parameters=_unused(training),
        )

    def wrap_loss(self, training: Training, compute: ComputeLoss) -> ComputeLoss:
        """Tell whether gradients are to be exchanged in this loss's backward pass."""
        replica: Any = training.forward

        def loss(batch: Batch) -> torch.Tensor:
            if not training.more_to_come:
                return compute(batch)
            with replica.no_sync():
                return compute(batch)

        def of_shards(batch: Batch) -> torch.Tensor:
            if exchange := getattr(training.model, "set_requires_all_reduce", None):  # as long as there are shards
                exchange(not training.more_to_come)
            return compute(batch)

        if replica is not None:
            return loss
        return of_shards if "shards" in training.group.layout else compute

    def wrap_gradients(self, training: Training, compute: ComputeGradients) -> ComputeGradients:
        """Take this process's slice."""
        if "layers" in training.group.layout:
            compute = _averaged(training, compute)
        return divided.sliced(training, self.name, "replicas", compute)

    def on_end(self, training: Training) -> None:
        """Take it off; the model was never changed."""
        training.forward = None

    def evidence(self, before: Snapshot, work: Training) -> Iterator[Claim]:
        """The processes have different items, exchange gradients once a step, and end with the same weights, bit for bit."""
        from bench.measure.wire import Wire

        yield from divided.claims(work, self.name, "replicas")
        trained = [digest(parameter) for parameter in work.parameters]
        gathered = work.group.all_gather(trained, "replicas")
        same = sum(len(set(each)) == 1 for each in zip(*gathered, strict=True))
        yield Claim(
            "replicas agree bit for bit", same == len(trained) > 0, f"{same} of {len(trained)} trained tensors do"
        )
        with Wire(work.group.processes("replicas")) as wire:
            work.gradients(work.probe, 1.0)
        expected = sum(map(_exchanged(work), work.parameters))
        work.optimizer.zero_grad(set_to_none=True)
        if work.exact:
            found = sum(size * calls for (what, _, size), calls in wire.calls.items() if what == "all_reduce")
            # Where some weights may be unused, processes also tell each other which were: four bytes each.
            once = found - expected in (0, 4 * len(work.parameters))
            yield Claim("a step exchanges each gradient once", once, f"{found:,} of {expected:,} bytes")

    def removal_evidence(self, work: Training) -> Iterator[Claim]:
        """The model is called as it is."""
        yield Claim(
            "the loss calls the model itself",
            work.forward is None,
            f"it calls {type(work.forward or work.model).__name__}",
        )
        if "layers" not in work.group.layout:  # of pieces, those who divide the layers say it
            yield from divided.whole_gradient(work, self.name)


def _averaged(training: Training, compute: ComputeGradients) -> ComputeGradients:
    """The mean of all replicas' gradients, once they are complete."""
    import torch
    import torch.distributed as dist

    group = training.group.processes("replicas")

    def gradients(batch: Batch, scale: float | torch.Tensor) -> torch.Tensor:
        loss = compute(batch, scale)
        held = [parameter for parameter in training.parameters if parameter.numel()]
        if held and not training.more_to_come:
            # Of the same weights in all replicas, whatever the loss has a part of.
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
            flat = torch.cat([part.flatten() for part in parts])
            dist.all_reduce(flat, group=group)
            flat /= group.size()
            for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
                part.copy_(mean.view_as(part))
        return loss

    return gradients


def _exchanged(work: Training) -> Callable[[torch.Tensor], int]:
    """Bytes of a weight's gradient, or of a shard of it, with which its padding goes, where the loss has a part of it."""
    shards = work.group.layout.get("shards")

    def size(weight: torch.Tensor) -> int:
        if shards is None:
            return weight.numel() * weight.element_size()
        rows = math.ceil(weight.shape[0] / shards)
        return rows * math.prod(weight.shape[1:]) * weight.element_size() * (weight.grad is not None)

    return size


def _unused(training: Training) -> bool:
    """Whether some trained weights have no part in the loss: only then must each step look for them."""
    import torch

    item = training.probe.split(training.probe.samples)[0]
    with torch.random.fork_rng():
        loss = training.task.criterion(training.outputs(item), item)
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    return any(found is None for found in torch.autograd.grad(loss, trained, allow_unused=True))
