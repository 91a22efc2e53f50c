"""bitsandbytes, mended where a CPU or a pickle breaks its packed layers. Imports torch.

Whoever unpickles a model with such layers imports this, for it holds what they are pickled with.
"""

from __future__ import annotations

import copyreg
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# It says something of a kernel that it could fetch from the hub and does not need,
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# and at each product that float32 inputs are cast.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

import bitsandbytes as bitsandbytes  # noqa: E402

Linear4bit: Any = bitsandbytes.nn.Linear4bit
Linear8bit: Any = bitsandbytes.nn.Linear8bitLt


def keep_as_packed(model: nn.Module) -> None:
    """Keep 4-bit layers from repacking their weights at the first evaluation, as the kernel for AVX512_BF16 wants them.

    Training after that, and saving, break.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def mend_loaded(model: Any) -> None:
    """Make a model whose weights came quantized one that trains, and that can be saved.

    transformers notes by which steps it read the weights, and goes back by the same ones where it saves them. Those that
    put packed weights together have no way back and need none: what is saved is in parts already.
    """
    keep_as_packed(model)
    model._weight_conversions = [each for each in getattr(model, "_weight_conversions", ()) if _goes_back(each)]


def _goes_back(conversion: Any) -> bool:
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


_unpack_rows = torch.library.get_kernel("bitsandbytes::dequantize_4bit", "CPU")
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def _unpack(
    packed: torch.Tensor,
    scales: torch.Tensor,
    blocksize: int,
    quant_type: str,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """As one row, which is how the blocks lie: with AVX512, rows that are not whole blocks get each other's scales."""
    row = (1, math.prod(shape))
    unpacked: torch.Tensor = _unpack_rows.call_boxed(_CPU, packed, scales, blocksize, quant_type, row, dtype)
    return unpacked.view(tuple(shape))


_multiply_int8 = torch.library.get_kernel("bitsandbytes::int8_linear_matmul", "CPU")


def _multiply(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """With at least two columns: of one, as a product of rank 1 has, ``torch._int_mm`` makes other numbers."""
    if weight.shape[-1] == 1:
        inputs, weight = (nn.functional.pad(each, (0, 1)) for each in (inputs, weight))
    product: torch.Tensor = _multiply_int8.call_boxed(_CPU, inputs, weight)
    return product


_mended = torch.library.Library("bitsandbytes", "IMPL")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that this overrides bitsandbytes' own
    _mended.impl("dequantize_4bit", _unpack, "CPU", allow_override=True)
    _mended.impl("int8_linear_matmul", _multiply, "CPU", allow_override=True)


def _pickle(parameter: Any) -> Any:
    """Pickled as it is, it would come back as a plain parameter, which leaves its statistics behind when it moves."""
    return _unpickle, (type(parameter), parameter.data, parameter.requires_grad, vars(parameter))


def _unpickle(kind: Any, data: torch.Tensor, requires_grad: bool, state: dict[str, Any]) -> Any:
    parameter = torch.Tensor._make_subclass(kind, data, requires_grad)
    vars(parameter).update(state)
    return parameter


copyreg.pickle(bitsandbytes.nn.Params4bit, _pickle)
copyreg.pickle(bitsandbytes.nn.Int8Params, _pickle)


def _move(layer: Any, move: Any, recurse: bool = True) -> Any:
    """With the model, which moves its parameters only: 8-bit scales are kept beside them."""
    nn.Module._apply(layer, move, recurse)
    for holder in (layer.weight, layer.state):
        if holder.SCB is not None:
            holder.CB, holder.SCB = layer.weight.data, move(holder.SCB)
    return layer


bitsandbytes.nn.Linear8bitLt._apply = _move

_moved = bitsandbytes.nn.Int8Params.to


def _moved_there(weight: Any, *args: Any, **named: Any) -> Any:
    """Codes whose scales the layer has taken stay the same parameter where they are, as any other does.

    A new one would have the layer ask it for scales, and PEFT's DoRA moves it at each pass, also at one without numbers.
    """
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **named)
    taken = weight.dtype == torch.int8 and weight.CB is None and weight.SCB is None
    if taken and device in (None, weight.device) and dtype in (None, torch.int8):
        return weight
    return _moved(weight, *args, **named)


bitsandbytes.nn.Int8Params.to = _moved_there
