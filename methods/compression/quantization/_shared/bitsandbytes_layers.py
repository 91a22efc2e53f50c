"""bitsandbytes' linear layers, made from plain ones, and mended where a CPU or a pickle breaks them. Imports torch."""

from __future__ import annotations

import copyreg
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BitsAndBytesConfig

from methods import _bitsandbytes

bitsandbytes = _bitsandbytes.imported()
# It warns at each product that float32 inputs are cast.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

Linear4bit: Any = bitsandbytes.nn.Linear4bit
Linear8bit: Any = bitsandbytes.nn.Linear8bitLt

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def four_bits(plain: nn.Linear, quant_type: str, *, double_quant: bool, compute_dtype: str) -> Any:
    """The layer in 4 bits."""
    layer = Linear4bit(
        plain.in_features,
        plain.out_features,
        plain.bias is not None,
        DTYPES[compute_dtype],
        compress_statistics=double_quant,
        quant_type=quant_type,
        device="meta",
    )
    # Its kernel for AVX512_BF16 repacks the weights at the first evaluation: training after that, and saving, break.
    layer.support_avx512bf16_for_cpu = False
    weight = bitsandbytes.nn.Params4bit(
        plain.weight.detach(), compress_statistics=double_quant, quant_type=quant_type, module=layer
    )
    layer.weight, layer.bias = weight.to(plain.weight.device), plain.bias  # moving is what quantizes
    return layer


def eight_bits(plain: nn.Linear, threshold: float) -> Any:
    """The layer in 8 bits."""
    layer = Linear8bit(
        plain.in_features,
        plain.out_features,
        plain.bias is not None,
        has_fp16_weights=False,
        threshold=threshold,
        device="meta",
    )
    # Only what comes from a CPU is quantized.
    weight = bitsandbytes.nn.Int8Params(plain.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False)
    layer.weight, layer.bias = weight.to(plain.weight.device), plain.bias
    return layer


def mark(model: nn.Module, **options: Any) -> None:
    """Tell PEFT what kind of layers these are, and ``from_pretrained`` how to load what ``save_pretrained`` writes."""
    plain = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    config: Any = model.config
    config.quantization_config = BitsAndBytesConfig(llm_int8_skip_modules=plain, **options)
    model.is_loaded_in_4bit = config.quantization_config.load_in_4bit
    model.is_loaded_in_8bit = config.quantization_config.load_in_8bit


class Products(TorchDispatchMode):
    """Inside of it, the types of what bitsandbytes multiplies: those of the first arguments of each product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[torch.dtype, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one operation."""
        if func.namespace == "bitsandbytes" and ("gemm" in func.__name__ or "scaled_mm" in func.__name__):
            self.seen.append(tuple(argument.dtype for argument in args[:3] if isinstance(argument, torch.Tensor)))
        return func(*args, **(kwargs or {}))


# -- mended where a CPU or a pickle breaks them

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
