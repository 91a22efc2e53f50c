"""Several processes at work on one stage: what can be divided how, and what the processes tell each other.

Modifiers say into how many parts they divide the work, and what of it (:data:`bench.recipe.declarations.Axis`); the parts of one
stage are the cells of a mesh with a dimension for each. Planning imports no torch from here.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import struct
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.recipe.declarations import Axis

if TYPE_CHECKING:
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.device_mesh import DeviceMesh

    from bench.tasks.base import Batch


RENDEZVOUS = timedelta(minutes=5)
"""How long processes wait for each other at the start; those of another machine may have a checkpoint to fetch first."""

COLLECTIVE = timedelta(minutes=10)
"""How long one waits for the others later on. One that dies ends the stage at once; this is for one that hangs."""


def batch_parts(layout: Mapping[Axis, int]) -> int:
    """Into how many slices a batch is divided."""
    return math.prod(size for axis, size in layout.items() if axis in _BATCH)


_BATCH: frozenset[Axis] = frozenset({"replicas", "shards"})


class Group:
    """The processes that work on a stage together, as one of them sees it. A process alone is a group too."""

    def __init__(
        self,
        rank: int = 0,
        mesh: DeviceMesh | None = None,
        layout: Mapping[Axis, int] | None = None,
        first: int = 0,
    ) -> None:
        self.rank = rank
        self.first = first  # of the processes on this machine: machines differ in it
        self.mesh = mesh
        self.layout: Mapping[Axis, int] = layout or {}

    @property
    def size(self) -> int:
        """How many processes."""
        return math.prod(self.layout.values())

    @functools.cached_property
    def batch_part(self) -> int:
        """Which of the batch's slices is this process's."""
        number = 0
        for axis, size in self.layout.items():
            if axis in _BATCH:
                number = number * size + self.local_rank(axis)
        return number

    def local_rank(self, axis: Axis) -> int:
        """This process's place along a dimension of the mesh."""
        assert self.mesh is not None
        return self.mesh.get_local_rank(axis)

    def processes(self, axis: Axis) -> Any:
        """Those along a dimension of the mesh, as torch's process group."""
        assert self.mesh is not None
        return self.mesh.get_group(axis)

    def part(self, batch: Batch, axis: Axis) -> tuple[Batch, float]:
        """The slice of `batch` at this process's place along a dimension of the mesh, and its weight.

        The *mean* over all slices of losses or gradients, each times its weight, is the whole batch's: slices differ in
        terms where items do. A slice is divided along another dimension as a batch is.
        """
        slices = self.layout[axis]
        mine = batch.split(slices)[self.local_rank(axis)]
        return mine, slices * mine.weight / batch.weight

    def all_gather(self, value: Any, *along: Axis) -> list[Any]:
        """What each process has to say, by rank, or each of those `along` dimensions of the mesh. All must call this."""
        if self.mesh is None:
            return [value]
        import torch.distributed as dist

        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        if not along:
            return said
        line = tuple(slice(None) if axis in along else self.local_rank(axis) for axis in self.layout)
        return [said[rank] for rank in self.mesh.mesh[line].flatten().tolist()]

    def close(self) -> None:
        """Part, after all have come this far."""
        if self.mesh is not None:
            import torch.distributed as dist

            dist.barrier()
            dist.destroy_process_group()
            self.mesh = None


def join(store: TCPStore, rank: int, layout: Mapping[Axis, int], device: torch.device, first: int) -> Group:
    """Meet the other processes at `store`; this machine's are those from number `first` on."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    size = math.prod(layout.values())
    if name := _interface(store.host):
        # Without it gloo looks the host's own name up, which can take minutes.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if device.type == "cuda":
        torch.cuda.set_device(rank - first)
        # Python objects and offloaded shards go through the CPU.
        backend, own = "cpu:gloo,cuda:nccl", torch.device("cuda", rank - first)
    else:
        backend, own = "gloo", None
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE, device_id=own)
    mesh = init_device_mesh(device.type, tuple(layout.values()), mesh_dim_names=tuple(layout))
    return Group(rank, mesh, layout, first)


def _interface(host: str) -> str | None:
    """The network interface that leads from here to `host`: where its address is this machine's, the one that has it."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # nothing is sent
            ours = socket.inet_aton(probe.getsockname()[0])
        except OSError:
            return None
        for _, name in socket.if_nameindex():
            # Those without an address, or with one of version 6 alone, do not answer.
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
                if answer[20:24] == ours:
                    return name
    return None
