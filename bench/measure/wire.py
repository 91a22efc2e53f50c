"""What a process sends to the others: collectives as they are called, and their bytes by formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

_RING: Mapping[str, Callable[[int, int], float]] = {
    "all_reduce": lambda size, n: 2 * (n - 1) / n * size,
    "all_gather": lambda size, n: (n - 1) / n * size,
    "reduce_scatter": lambda size, n: (n - 1) / n * size,
    "broadcast": lambda size, n: (n - 1) / n * size,
    "all_to_all": lambda size, n: (n - 1) / n * size,
    "send": lambda size, n: size,
}
"""Bytes that each of `n` processes sends on a ring, for a whole tensor of `size` bytes; a broadcast's are the mean."""

_OPERATIONS = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "all_reduce_coalesced": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
    "send": "send",
}
"""torch's operators (of c10d and of its functional collectives), and what each is."""

_NOTHING = {"wait_tensor", "_wrap_tensor_autograd", "recv_", "recv_any_source_", "barrier", "monitored_barrier_"}
"""Operators that send nothing by themselves."""


class _OneThread(TorchDispatchMode):
    """What is called in this thread."""

    def __init__(self, among: ProcessGroup | None, calls: dict[tuple[str, int, int], int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.among = among
        self.calls = calls

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional"):
            name = function._schema.name.rpartition("::")[2]
            if name not in _NOTHING:
                self._note(_OPERATIONS[name], function, args)
        return function(*args, **(kwargs or {}))

    def _note(self, operation: str, function: Any, args: Any) -> None:
        sizes = [tensor.numel() * tensor.element_size() for tensor in _tensors(args)]
        group = next(_groups(args), None)
        if self.among is not None and (group is None or group.group_name != self.among.group_name):
            return
        members = group.size() if group is not None else 1
        # Where a part is handed over beside the whole, the whole is the largest.
        scattered = operation in ("all_gather", "reduce_scatter")
        whole = max(sizes) if scattered else sum(sizes)
        if scattered and function.namespace == "_c10d_functional" and operation == "all_gather":
            whole *= members
        key = (operation, members, whole)
        self.calls[key] = self.calls.get(key, 0) + 1


class Wire(_OneThread):
    """``with Wire() as wire:`` sees every collective that is called inside, in the backward pass too.

    ``calls`` maps ``(operation, processes, bytes of the whole tensor)`` to how often. Sizes are those of the tensors
    that were really handed over; bytes sent follow from them by the formula of a ring, which NCCL and gloo use for
    large tensors. With a group, only what is sent `among` that group's processes counts.
    """

    def __init__(self, among: ProcessGroup | None = None) -> None:
        super().__init__(among, {})

    def __enter__(self) -> Self:
        # Modes are a thread's own. A communication hook goes on in the threads that finish its first collective.
        self._all_reduce = original = dist.all_reduce

        def all_reduce(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(mode, _OneThread) for mode in _get_current_dispatch_mode_stack()):
                return original(*args, **kwargs)
            with _OneThread(self.among, self.calls):
                return original(*args, **kwargs)

        dist.all_reduce = all_reduce
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        dist.all_reduce = self._all_reduce
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @property
    def sent(self) -> float:
        """Bytes that this process sent."""
        return sum(count * _RING[operation](size, n) for (operation, n, size), count in self.calls.items())

    def table(self) -> list[dict[str, Any]]:
        """The calls, for the record."""
        return [
            {"operation": operation, "processes": n, "bytes": size, "calls": count}
            for (operation, n, size), count in self.calls.items()
        ]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _groups(args: Any) -> Iterator[ProcessGroup]:
    """The group that a collective is called with: an object of torch's, or a name."""
    from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

    for arg in args:
        if isinstance(arg, torch.ScriptObject):
            yield ProcessGroup.unbox(arg)
        elif isinstance(arg, str) and arg not in ("sum", "avg", "max", "min"):
            yield _resolve_process_group(arg)  # type: ignore[arg-type]
