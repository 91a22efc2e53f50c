"""GPUs that are not there: tensors that say which one they lie on and keep to it as CUDA's do, computed on the CPU.

Numbers are real. An operation on tensors of two GPUs, or of a GPU and the CPU, fails; each GPU draws random numbers of
its own; autocast casts; and whatever makes the host wait for a GPU can be counted. For a process of its own, since torch
is told of the devices once and for all.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

KIND = "pretend"
GPUS = 4

waits: list[str] | None = None
"""While it is a list: what made the host wait for a GPU, and where, as :func:`_wait` writes it down."""


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
    _fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, cast in ((_HALF, None), (_WHOLE, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            _library.impl(operator, _autocasting(operator, cast), "AutocastPrivateUse1")
    torch.Generator = _Generator  # type: ignore[misc]
    # As the default is CUDA's GPUs.
    torch.random.fork_rng = functools.partial(torch.random.fork_rng, device_type=KIND)
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

    @property
    def data(self) -> torch.Tensor:
        """As ever; but what is put in its place brings its numbers."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined, no-any-return]

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held  # type: ignore[attr-defined]

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """What holds the numbers."""
        return self.held.untyped_storage()

    def storage(self) -> Any:
        """The same, with a type."""
        return self.held.storage()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r}, {self.device})"

    def tolist(self) -> Any:
        """As CUDA's: from a copy on the CPU."""
        return self.cpu().tolist()

    def numpy(self, **options: Any) -> Any:
        """As CUDA's: not at all."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = OnGpu(copy.deepcopy(self.held.detach(), memo), self.device)
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made)
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]

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
        # Whoever has tensors of a class of their own says what becomes of them, and we see what that comes to.
        apart = any(each is not OnGpu and each.__torch_dispatch__ is not _NONE for each in types)
        if apart:
            return NotImplemented
        with self:  # in inference mode they come whole
            parts = func.decompose(*args, **(kwargs or {}))
        return _run(func, args, kwargs or {}) if parts is NotImplemented else parts


_NONE = torch.Tensor.__torch_dispatch__


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
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        self.states = {number: torch._C.Generator().manual_seed(seed).get_state() for number in range(GPUS)}

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return self.states[self._number(device)].clone()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        self.states[self._number(device)] = state.clone()

    def synchronize(self, device: Any = None) -> None:
        _wait("synchronize")

    @contextlib.contextmanager
    def device(self, number: int) -> Iterator[None]:
        before, self.current = self.current, number
        yield
        self.current = before

    def _number(self, device: Any) -> int:
        number = device.index if isinstance(device, torch.device) else device
        return self.current if number is None else int(number)


class _Generator(torch.Generator):
    """Draws for one device, which may be a GPU."""

    def __new__(cls, device: Any = "cpu") -> Any:
        device = torch.device(device)
        self = super().__new__(cls, "cpu" if device.type == KIND else device)
        if device.type == KIND:
            _generators.append((self, gpu(device.index or 0)))
        return self


_module = _Module()
_generators: list[tuple[torch.Generator, torch.device]] = []
"""Those of GPUs. What C++ hands on is another object, so that its state tells which it is."""
_library = torch.library.Library("aten", "IMPL")
_fallback = torch.library.Library("_", "IMPL")


def _copy_from(source: torch.Tensor, target: OnGpu, non_blocking: bool = False) -> OnGpu:
    _copied("_copy_from", source, non_blocking)
    target.held.copy_(getattr(source, "held", source))
    return target


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what is asked of a GPU."""
    name = func.overloadpacket.__name__
    tensors: list[torch.Tensor] = []
    ours = _taken((args, kwargs), tensors)
    wanted = kwargs.get("device")
    # A number of the CPU goes with any GPU, as with CUDA, and so do places in a tensor.
    free = {id(each) for each in args[1] if not isinstance(each, OnGpu)} if name in _INDEXED else ()
    places = {t.device for t in tensors if (t.dim() or isinstance(t, OnGpu)) and id(t) not in free}
    if len(places) > 1 and name not in ("_to_copy", "copy_"):
        found = sorted(map(str, places))
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {found}")
    place = torch.device(wanted) if wanted is not None else next(iter(places), torch.device("cpu"))
    args, kwargs = ours
    if place.type == KIND:
        place = gpu(place.index or 0)
        if wanted is not None:
            kwargs = {**kwargs, "device": "cpu"}
        if name in _PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
            raise RuntimeError(f'"{name}_cuda" not implemented for {tensors[0].dtype}')
    if waits is not None:
        _look(func, name, tensors, kwargs, place)
    if name == "resize_" and place.type == KIND:
        raise NotImplementedError("resize_: a tensor of a GPU that is not there keeps its size")
    with _drawing(func, place, kwargs.get("generator")):
        result = func(*args, **kwargs)
    given = {id(getattr(tensor, "held", tensor)): tensor for tensor in tensors}  # what works in place gives it back
    return _given(result, given, place)


def _taken(value: Any, seen: list[torch.Tensor]) -> Any:
    """`value` with the numbers in place of the tensors of a GPU; all tensors are put into `seen`."""
    if isinstance(value, torch.Tensor):
        seen.append(value)
        return value.held if isinstance(value, OnGpu) else value
    if isinstance(value, list | tuple):
        return type(value)([_taken(inner, seen) for inner in value])
    if isinstance(value, dict):
        return {key: _taken(inner, seen) for key, inner in value.items()}
    return value


def _given(value: Any, given: dict[int, torch.Tensor], place: torch.device) -> Any:
    """`value` with tensors at `place`, those of `given` where they are the same."""
    if isinstance(value, torch.Tensor):
        if id(value) in given:
            return given[id(value)]
        return OnGpu(value, place) if place.type == KIND else value
    if isinstance(value, list | tuple):
        inner = [_given(each, given, place) for each in value]
        return type(value)(inner) if type(value) in (list, tuple) else type(value)(*inner)
    return value


_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"}
"""Those that CUDA has no kernels of integers for."""


@contextlib.contextmanager
def _drawing(func: Any, place: torch.device, generator: torch.Generator | None) -> Iterator[None]:
    """Draw from this device's random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags or (place.type != KIND and generator is None):
        yield
    elif generator is not None:
        state = generator.get_state()
        there = [where for each, where in _generators if torch.equal(each.get_state(), state)]
        if place not in (there or [torch.device("cpu")]):
            raise RuntimeError(f"Expected a '{place}' device type for generator but found another's")
        yield
    else:
        before = torch.get_rng_state()
        torch.set_rng_state(_module.states[place.index])
        yield
        _module.states[place.index] = torch.get_rng_state()
        torch.set_rng_state(before)


# -- what makes the host wait


def _look(func: Any, name: str, tensors: list[torch.Tensor], options: dict[str, Any], place: torch.device) -> None:
    """Write down where the host waits for a GPU: it reads a number, asks how many there are, or copies.

    Not seen is what CUDA's own kernels wait for inside; ``torch.cuda.set_sync_debug_mode`` on a real GPU sees that.
    """
    on_gpu = [isinstance(tensor, OnGpu) for tensor in tensors]
    if name in ("_to_copy", "copy_"):
        source = tensors[-1]
        if isinstance(source, OnGpu) != (place.type == KIND if name == "_to_copy" else on_gpu[0]):
            _copied(name, source, options.get("non_blocking", False))
    elif not any(on_gpu):
        return
    elif name in _INDEXED:
        # Where the truth is asked for, first how often; and places that lie on the CPU are copied.
        places = tensors[1:] if name.endswith("index") else tensors[1:-1]
        if any(each.dtype in (torch.bool, torch.uint8) or not isinstance(each, OnGpu) for each in places):
            _wait(name)
    elif (
        torch.Tag.data_dependent_output in func.tags
        or name == "_linalg_check_errors"
        or (torch.Tag.dynamic_output_shape in func.tags and options.get("output_size") is None)
    ):
        _wait(name)


def _copied(name: str, source: torch.Tensor, non_blocking: bool) -> None:
    """From the CPU it need not wait if the source is pinned; what goes to the CPU without waiting lands in pinned memory."""
    if not non_blocking or not (isinstance(source, OnGpu) or source.is_pinned()):
        _wait(f"{name} {'to' if isinstance(source, OnGpu) else 'from'} the CPU")


def _wait(what: str) -> None:
    """Write it down, with the innermost line that is not torch's."""
    if waits is None:
        return
    frame = sys._getframe(1)
    while frame.f_back and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    waits.append(f"{what} at {file.parent.name}/{file.name}: {frame.f_code.co_name}")


# -- autocast, by CUDA's lists: https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior

_HALF = (
    "linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "scaled_dot_product_attention",
)  # fmt: skip
_WHOLE = (
    "softmax.int", "log_softmax.int", "layer_norm", "cross_entropy_loss", "nll_loss", "nll_loss_nd", "mse_loss", "kl_div",
    "cosine_similarity", "exp", "log", "pow.Tensor_Scalar", "rsqrt", "sum", "sum.dim_IntList", "norm.Scalar", "cumsum",
)  # fmt: skip


def _autocasting(operator: Any, to: torch.dtype | None) -> Callable[..., Any]:
    """`operator` on floating-point tensors of a GPU cast to `to`, or to autocast's own type."""

    def cast(value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor):
            eligible = value.is_floating_point() and value.device.type == KIND and value.dtype != torch.float64
            return value.to(dtype) if eligible else value
        return type(value)(cast(inner, dtype) for inner in value) if isinstance(value, list | tuple) else value

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = to or torch.get_autocast_dtype(KIND)
        without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        with torch._C._ExcludeDispatchKeyGuard(without):
            return operator(*cast(args, dtype), **{name: cast(value, dtype) for name, value in kwargs.items()})

    return run
