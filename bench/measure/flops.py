"""Floating point operations, counted by torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_QUANTIZED = {
    "aten": ["_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu"],
    "quantized": ["linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16", "linear_relu_dynamic_fp16"],
    "bitsandbytes": [
        "gemm_4bit",
        "gemv_4bit",
        "int8_scaled_mm",
        "int8_mixed_scaled_mm",
        "int8_linear_matmul",
    ],
}
"""Matrix products that torch's counter takes for nothing; the first argument of each is ``[..., K]``."""


def count(function: Callable[[], object]) -> int:
    """The floating point operations of one call of `function`: 2·M·K·N for each product of matrices.

    Matrix products, convolutions and attention count; elementwise operations do not. A product of quantized
    matrices counts like one of floats. What gradient checkpointing computes again counts again.

    Attention is computed from its two products while counting (torch's "math" backend), since the counter
    does not see the fused kernel that a CPU uses. So the count does not depend on the kernel either: backward
    is twice forward, a causal mask saves nothing, and what a fused kernel computes again in its backward pass
    is left out. Compiled code is counted as it runs without compilation, for inductor's kernels are opaque.

    Source: :mod:`torch.utils.flop_counter`.
    """
    mode = FlopCounterMode(display=False, custom_mapping=_formulas())
    with warnings.catch_warnings():
        # The counter's hooks on modules; they do nothing that counts twice.
        warnings.filterwarnings("ignore", ".*when there are global hooks on modules", UserWarning)
        with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), mode:
            function()
    return int(mode.get_total_flops())


def _formulas() -> dict[Any, Callable[..., int]]:
    # bitsandbytes' operators exist once it has been imported, and not before a model of its could be counted.
    return {
        getattr(namespace, name): _product
        for namespace, names in ((getattr(torch.ops, key), names) for key, names in _QUANTIZED.items())
        for name in names
        if hasattr(namespace, name)
    }


def _product(activations: torch.Size, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of ``[..., K]`` and K × N, from the shapes that torch's counter passes."""
    output = out_shape if isinstance(out_shape, torch.Size) else out_shape[0]
    return 2 * math.prod(output) * activations[-1]
