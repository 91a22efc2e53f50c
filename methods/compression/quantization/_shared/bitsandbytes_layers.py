"""bitsandbytes' linear layers, made from plain ones. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BitsAndBytesConfig

from bench.models.packed import Linear4bit as Linear4bit
from bench.models.packed import Linear8bit as Linear8bit
from bench.models.packed import bitsandbytes, keep_as_packed

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
    keep_as_packed(layer)
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
