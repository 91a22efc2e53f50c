"""Bytes: what a model, its gradients, its optimizer and autograd hold. The peak of a phase is in :mod:`bench.measure.peak`.

Tensor bytes are those of *storages*, each counted once: that is the memory which is really held. A view keeps
its whole storage alive, so a small slice of a huge tensor counts as the huge tensor (``clone`` the slice to
let it go); two views of one storage count once, and so do two storages that begin at the same address.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils import _python_dispatch

_SCALE_AND_ZERO_POINT = 4 + 4
"""Bytes that torch's packed kernels hold for each scale with its zero point: a float32 and an int32."""


# -- tensors


def storage_bytes(model_or_tensors: torch.nn.Module | torch.Tensor | Iterable[torch.Tensor]) -> int:
    """Bytes of the unique storages of a model's parameters and buffers, or of some tensors.

    Packed weights are in, with all that is needed to unpack them: torchao's and other tensor subclasses,
    bitsandbytes' ``quant_state`` and ``CB``/``SCB``, torch's quantized tensors, and modules of
    ``torch.ao.nn.quantized``, whose packed weights are no parameters. Of a tensor that is sharded over
    processes, this process's shard counts.
    """
    storages = _Storages()
    if isinstance(model_or_tensors, torch.nn.Module):
        storages.add_model(model_or_tensors)
    elif isinstance(model_or_tensors, torch.Tensor):
        storages.add(model_or_tensors)
    else:
        for tensor in model_or_tensors:
            storages.add(tensor)
    return storages.bytes


def gradient_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of the gradients that `parameters` hold at this moment."""
    return storage_bytes(parameter.grad for parameter in parameters if parameter.grad is not None)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state, step counters and quantization tables included.

    The state of most optimizers is empty before the first step.
    """
    return storage_bytes(_tensors_in(list(optimizer.state.values())))


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """``{"total": …, "nonzero": …}``: elements of all weights at their unpacked shapes, and those that are
    not 0.

    Tied weights count once, and PEFT's unused originals of modules that it trains in full do not count.
    Buffers are no weights. A pruning mask that is kept beside its weight, not folded in, is not seen. With
    sharded parameters (DTensor) every process of the group must call this.
    """
    total = filled = 0
    seen: set[object] = set()
    for key, weight in _weights(model):
        if key not in seen:
            seen.add(key)
            total += _unpacked_numel(weight)
            filled += nonzero(weight)
    return {"total": total, "nonzero": filled}


class SavedActivations:
    """What autograd saves; see :func:`saved_activations`. ``bytes`` is the most that a backward pass had waiting."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.bytes = 0
        self._kept = _Storages()
        self._kept.add_model(model)
        self._now = 0
        self._holders: Counter[object] = Counter()

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        storages = _Storages(without=self._kept)
        # A sharded model's weights are gathered, as parameters, when they are used: they were not there before.
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            storages.add(tensor)
        for key, size in storages.items():
            self._now += size if not self._holders[key] else 0
            self._holders[key] += 1
        # An operation's own output would hold the operation that holds it, and neither would ever be freed.
        return _Saved(tensor if tensor.is_leaf else tensor.detach(), functools.partial(self._release, storages))

    def look(self) -> None:
        """Now is when what is saved counts."""
        self.bytes = max(self.bytes, self._now)

    def _unpack(self, held: _Saved) -> torch.Tensor:
        self.look()
        return held.tensor

    def _release(self, storages: _Storages) -> None:
        for key, size in storages.items():
            self._holders[key] -= 1
            self._now -= size if not self._holders[key] else 0


class _Saved:
    """A tensor as autograd holds it, until the backward pass has used it."""

    def __init__(self, tensor: torch.Tensor, release: Callable[[], None]) -> None:
        self.tensor = tensor
        self._release = release

    def __del__(self) -> None:
        self._release()


@contextlib.contextmanager
def saved_activations(model: torch.nn.Module) -> Iterator[SavedActivations]:
    """Count what is saved for the backward pass inside, without the model's parameters and buffers.

    The figure is the most at one time that a backward pass takes something back, or at the end: micro-batches, each
    freed by its backward pass, do not add up, and what is let go of during the forward pass was for no backward, as the
    input of a checkpointed block that is frozen. Inputs and
    autocast's copies of weights count where autograd saves them; what a checkpointed region will compute again does
    not. Not seen is what a custom ``autograd.Function`` keeps as a plain attribute of its context, as bitsandbytes'
    8-bit matrix product does with its input.

    Source: :class:`torch.autograd.graph.saved_tensors_hooks`.
    """
    saved = SavedActivations(model)
    with torch.autograd.graph.saved_tensors_hooks(saved._pack, saved._unpack):
        yield saved
    saved.look()


class _Storages:
    """A set of storages by where they are."""

    def __init__(self, without: _Storages | None = None) -> None:
        self._bytes: dict[tuple[torch.device, int], int] = {}
        self._without = without
        # Bytes that torch holds outside any storage that it shows.
        self._extra: dict[object, int] = {}

    @property
    def bytes(self) -> int:
        return sum(self._bytes.values()) + sum(self._extra.values())

    def items(self) -> Iterator[tuple[object, int]]:
        yield from self._bytes.items()
        yield from self._extra.items()

    def add_model(self, model: torch.nn.Module) -> None:
        for tensor in (*model.parameters(), *model.buffers()):
            self.add(tensor)
        for module in model.modules():
            for tensor in _unregistered(module):
                self.add(tensor)
            for number, tensor in enumerate(_packed(module)):
                # Unpacked anew at each call, so its address says nothing: the module does.
                unpacked = tensor.numel() * tensor.element_size()
                self._extra[module, number] = unpacked + _quantizer_bytes(tensor)

    def add(self, tensor: torch.Tensor) -> None:
        for part in parts(tensor):
            if part.layout == torch.strided:
                storage = part.untyped_storage()
                # A tensor without data (on "meta") has no address, but its storage still is one object.
                key = (part.device, storage.data_ptr() or storage._cdata)
                if self._without is None or key not in self._without._bytes:
                    self._bytes[key] = max(self._bytes.get(key, 0), storage.nbytes())
            else:  # oneDNN's own layout shows no storage
                self._extra[id(part)] = part.numel() * part.element_size()
            if part.is_quantized:
                self._extra["quantizer", part.data_ptr()] = _quantizer_bytes(part)


def parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that `tensor` is made of, and those that are needed to unpack it."""
    if _wraps(tensor):
        for name in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
            if isinstance(inner := getattr(tensor, name), torch.Tensor):  # a DTensor's mesh is none
                yield from parts(inner)
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield tensor
    for name in ("quant_state", "CB", "SCB"):  # bitsandbytes' Params4bit and Int8Params
        if (extra := getattr(tensor, name, None)) is not None:
            for inner in _tensors_in(extra):
                yield from parts(inner)


def _wraps(tensor: torch.Tensor) -> bool:
    """Whether this is a subclass that is made of other tensors, as torchao's and DTensor are."""
    return bool(_python_dispatch.is_traceable_wrapper_subclass(tensor))


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested containers and in bitsandbytes' states."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors_in(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _tensors_in(inner)
    elif type(value).__module__.startswith("bitsandbytes.") and hasattr(value, "__dict__"):
        yield from _tensors_in(vars(value))


def _unregistered(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """What a module keeps beside its parameters: bitsandbytes moves ``CB`` and ``SCB`` here at first use.

    The numbers of the columns in which its last batch had outliers stay there too, and are no weights.
    """
    if type(module).__module__.startswith("bitsandbytes."):
        state = getattr(module, "state", None)
        for held in (getattr(state, "CB", None), getattr(state, "SCB", None), getattr(module, "quant_state", None)):
            yield from _tensors_in(held)


def _packed(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Weight and bias of a module of ``torch.ao.nn.quantized``, which keeps them in an opaque object."""
    if hasattr(module, "_packed_params"):
        for name in ("weight", "bias"):
            unpack: Any = getattr(module, name, None)
            if callable(unpack) and (tensor := unpack()) is not None:
                yield tensor


def _quantizer_bytes(tensor: torch.Tensor) -> int:
    if not tensor.is_quantized:
        return 0
    per_tensor = tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
    return _SCALE_AND_ZERO_POINT * (1 if per_tensor else tensor.q_per_channel_scales().numel())


def _weights(model: torch.nn.Module) -> Iterator[tuple[object, torch.Tensor]]:
    """Each weight with what identifies it: equal for two parameters that are the same numbers at the same place."""
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            plain = not _wraps(parameter) and parameter.layout == torch.strided
            if plain and parameter.numel() and parameter.data_ptr():
                place = (parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype)
                yield (parameter.device, *place), parameter
            else:
                yield id(parameter), parameter
    for module in model.modules():
        # Unpacked anew at each call, often at the address of the one before: the module says which it is.
        for number, tensor in enumerate(_packed(module)):
            yield (id(module), number), tensor
        # What keeps its weight packed in buffers, as our own modules do, can unpack it.
        if callable(unpacked := getattr(module, "unpacked", None)):
            yield (id(module), "unpacked"), unpacked()


def _four_bit(weight: torch.Tensor) -> Any:
    """The state of a bitsandbytes 4-bit weight; None for any other."""
    return getattr(weight, "quant_state", None)


def _unpacked_numel(weight: torch.Tensor) -> int:
    state = _four_bit(weight)
    return weight.numel() if state is None else int(torch.Size(state.shape).numel())


@torch.no_grad()
def nonzero(weight: torch.Tensor) -> int:
    """Elements that are not 0, at the unpacked shape."""
    if (state := _four_bit(weight)) is not None:
        # Looked up code by code, because bitsandbytes cannot dequantize what it has repacked for its CPU
        # kernel.
        packed = weight.detach().view(torch.uint8)
        is_zero = state.code == 0
        zeros = int(is_zero[(packed >> 4).long()].sum()) + int(is_zero[(packed & 15).long()].sum())
        padding = 2 * packed.numel() - _unpacked_numel(weight)
        return 2 * packed.numel() - zeros - padding
    if hasattr(weight, "full_tensor"):  # DTensor
        weight = weight.full_tensor()
    elif weight.is_quantized or (_wraps(weight) and type(weight).dequantize is not torch.Tensor.dequantize):
        weight = weight.dequantize()
    elif type(weight).__module__.startswith("torchao."):  # laid out for a kernel, which alone can read it
        weight = torch.nn.functional.linear(
            torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device), weight
        )
    elif _wraps(weight) or weight.layout != torch.strided:
        weight = weight.to_dense()
    return int(torch.count_nonzero(weight))
