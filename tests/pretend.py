"""GPUs that are not there: tensors that say which one they lie on and keep to it as CUDA's do, computed on the CPU.

An operation on tensors of two GPUs, or of a GPU and the CPU, fails, and each GPU draws random numbers of its own. For a
process of its own, since torch is told of the devices once and for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

KIND = "pretend"
GPUS = 4
_RANDOM = {"native_dropout", "bernoulli", "bernoulli_", "normal_", "uniform_", "rand_like", "randn_like"}


def gpu(number: int) -> torch.device:
    """One of them."""
    return torch.device(KIND, number)


def start() -> None:
    """Tell torch of them, until the process ends."""
    _setup_privateuseone_for_python_backend(KIND, backend_module=_module)
    _module.manual_seed_all(0)
    for made in (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default):
        # What C++ asks for in its own code goes past the mode.
        _library.impl(made, lambda *args, made=made, **kwargs: _run(made, args, kwargs), "PrivateUse1")
    _library.impl(torch.ops.aten._copy_from.default, _copy_from, "PrivateUse1")
    torch.autograd.set_multithreading_enabled(False).__enter__()  # autograd's threads know real devices alone
    _Mode().__enter__()


class OnGpu(torch.Tensor):
    """A tensor of a GPU; ``held`` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device | None = None, requires_grad: bool = False) -> Any:
        if isinstance(held, OnGpu):  # a parameter's class is asked for a parameter
            return torch.nn.Parameter(held, requires_grad)
        self = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=device
        )
        self.held = held
        return self

    def __tensor_flatten__(self) -> tuple[list[str], torch.device]:
        return ["held"], self.device

    @staticmethod
    def __tensor_unflatten__(inner: Any, device: torch.device, size: Any, stride: Any) -> OnGpu:
        return OnGpu(inner["held"], device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what makes tensors of none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Module(_DummyBackendModule):
    """What ``torch.cuda`` is to CUDA."""

    _initialized = True

    def __init__(self) -> None:
        self.states: dict[int, torch.Tensor] = {}
        self.current = 0

    def device_count(self) -> int:
        return GPUS

    def current_device(self) -> int:
        return self.current

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return []

    def manual_seed_all(self, seed: int) -> None:
        self.states = {number: torch.Generator().manual_seed(seed).get_state() for number in range(GPUS)}

    def get_rng_state(self, device: int | None = None) -> torch.Tensor:
        return self.states[self.current if device is None else device].clone()

    def set_rng_state(self, state: torch.Tensor, device: int | None = None) -> None:
        self.states[self.current if device is None else device] = state.clone()

    @contextlib.contextmanager
    def device(self, number: int) -> Iterator[None]:
        before, self.current = self.current, number
        yield
        self.current = before


_module = _Module()
_library = torch.library.Library("aten", "IMPL")


def _copy_from(source: torch.Tensor, target: OnGpu, non_blocking: bool = False) -> OnGpu:
    target.held.copy_(getattr(source, "held", source))
    return target


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what is asked of a GPU."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    wanted = kwargs.get("device")
    # A number of the CPU goes with any GPU, as with CUDA.
    places = {tensor.device for tensor in tensors if tensor.dim() or isinstance(tensor, OnGpu)}
    if name not in ("_to_copy", "copy_") and len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} found {sorted(map(str, places))}"
        )
    place = torch.device(wanted) if wanted is not None else next(iter(places), torch.device("cpu"))
    if place.type == KIND:
        place = gpu(place.index or 0)
        if wanted is not None:
            kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = tree_map(lambda value: value.held if isinstance(value, OnGpu) else value, (args, kwargs))
    with _generator(place) if name in _RANDOM else contextlib.nullcontext():
        found = func(*args, **kwargs)
    given = {id(getattr(tensor, "held", tensor)): tensor for tensor in tensors}  # what works in place gives it back

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or id(value) in given:
            return given.get(id(value), value)
        return OnGpu(value, place) if place.type == KIND else value

    return tree_map(placed, found)


@contextlib.contextmanager
def _generator(place: torch.device) -> Iterator[None]:
    """Draw from this device's random numbers."""
    if place.type != KIND:
        yield
        return
    before = torch.get_rng_state()
    torch.set_rng_state(_module.states[place.index])
    yield
    _module.states[place.index] = torch.get_rng_state()
    torch.set_rng_state(before)
