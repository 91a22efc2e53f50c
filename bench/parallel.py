"""Several processes at work on one stage: what can be divided how, and what the processes tell each other.

Modifiers say into how many parts they divide the work, and what of it (:data:`bench.method.Split`); the parts of one
stage are the cells of a mesh with a dimension for each. Planning imports no torch from here.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.method import Method, Place, Split, Transform, standing

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import DeviceMesh

    from bench.tasks.base import Batch

TOGETHER: frozenset[frozenset[Split]] = frozenset({frozenset({"replicas", "tensors"})})
"""What can be divided in two ways at once."""

RENDEZVOUS = timedelta(seconds=60)
"""How long processes wait for each other at the start."""

COLLECTIVE = timedelta(minutes=10)
"""How long one waits for the others later on. One that dies ends the stage at once; this is for one that hangs."""


def slices(layout: Mapping[Split, int]) -> int:
    """Into how many slices a batch is divided."""
    return math.prod(size for split, size in layout.items() if split in _BATCH)


_BATCH: frozenset[Split] = frozenset({"replicas", "shards"})


def problems(place: Place) -> Iterator[str]:
    """Why the stage cannot be divided so at `place`, each beginning with the name of what stands in the way."""
    layout = place.stage.layout
    if not layout:
        return
    dividing = {modifier.name: modifier.split for modifier in place.stage.modifiers if modifier.split}
    names = " + ".join(dividing)
    if len(dividing) > 1 and (len(layout) < len(dividing) or frozenset(layout) not in TOGETHER):
        yield f"{names}: a stage cannot be divided in these ways at once; take one of them"
    if place.batch_size % (parts := slices(layout)):
        yield (
            f"{names}: a batch of {place.batch_size} cannot be divided into {parts} equal slices; "
            f"make budget.batch_size a multiple of {parts}"
        )
    if place.machine.device == "cuda" and place.stage.processes > place.machine.gpus:
        yield f"{names}: it takes {place.stage.processes} GPUs, and this machine shows {place.machine.gpus}"
    *before, _ = standing((*place.before, place.stage))
    carried = [kept for stage in before for method in stage.methods for kept in method.carries() if _trains(kept)]
    for method in (*place.stage.methods, *carried):
        missing = [split for split in layout if split not in method.across]
        if missing and method.name not in dividing:
            yield f"{method.name}: it is not known to be right in a training that {names} divides; leave one of them out"


def _trains(kept: Transform) -> bool:
    """Whether it has something to do while a later stage trains."""
    hooks = [name for name in vars(Method) if name.startswith(("on_", "between_"))]
    return any(getattr(type(kept), hook) is not getattr(Method, hook) for hook in hooks)


class Group:
    """The processes that work on a stage together, as one of them sees it. A process alone is a group too."""

    def __init__(
        self, rank: int = 0, mesh: DeviceMesh | None = None, layout: Mapping[Split, int] | None = None
    ) -> None:
        self.rank = rank
        self.mesh = mesh
        self.layout: Mapping[Split, int] = layout or {}

    @property
    def size(self) -> int:
        """How many processes."""
        return math.prod(self.layout.values())

    @functools.cached_property
    def slices(self) -> int:
        """Into how many slices a batch is divided."""
        return slices(self.layout)

    @functools.cached_property
    def slice(self) -> int:
        """Which of them is this process's."""
        return next((self.place(split) for split in self.layout if split in _BATCH), 0)

    def place(self, split: Split) -> int:
        """This process's place along a dimension of the mesh."""
        assert self.mesh is not None
        return self.mesh.get_local_rank(split)

    def processes(self, split: Split) -> Any:
        """Those along a dimension of the mesh, as torch's process group."""
        assert self.mesh is not None
        return self.mesh.get_group(split)

    def part(self, batch: Batch) -> tuple[Batch, float]:
        """This process's slice of `batch`, and its weight.

        The *mean* over all slices of losses or gradients, each times its weight, is the whole batch's: slices differ in
        terms where items do.
        """
        mine = batch.split(self.slices)[self.slice]
        return mine, self.slices * mine.weight / batch.weight

    def everyone(self, value: Any, along: Split | None = None) -> list[Any]:
        """What each process has to say, by rank, or each of those `along` a dimension of the mesh. All must call this."""
        if self.mesh is None:
            return [value]
        import torch.distributed as dist

        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        return said if along is None else [said[rank] for rank in dist.get_process_group_ranks(self.processes(along))]

    def close(self) -> None:
        """Part, after all have come this far."""
        if self.mesh is not None:
            import torch.distributed as dist

            dist.barrier()
            dist.destroy_process_group()
            self.mesh = None


def join(store: Store, rank: int, layout: Mapping[Split, int], device: torch.device) -> Group:
    """Meet the other processes at `store`."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    size = math.prod(layout.values())
    if sys.platform == "linux":
        # Without it gloo looks the host's own name up, which can take minutes.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if device.type == "cuda":
        torch.cuda.set_device(rank)
        # Python objects and offloaded shards go through the CPU.
        backend, own = "cpu:gloo,cuda:nccl", torch.device("cuda", rank)
    else:
        backend, own = "gloo", None
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE, device_id=own)
    mesh = init_device_mesh(device.type, tuple(layout.values()), mesh_dim_names=tuple(layout))
    return Group(rank, mesh, layout)
