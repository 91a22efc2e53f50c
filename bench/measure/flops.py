"""Floating point operations, counted by torch."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

_log = logging.getLogger(__name__)

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


def count(function: Callable[[], object], undo: Callable[[], object] = lambda: None, *, fake: bool = True) -> int:
    """The floating point operations of one call of `function`: 2·M·K·N for each product of matrices.

    Matrix products, convolutions and attention count; elementwise operations do not. A product of quantized
    matrices counts like one of floats. What gradient checkpointing computes again counts again.

    Nothing is computed and nothing allocated where that can be: `function` is called on tensors that have a shape, a
    type and a device but no numbers (torch's fake tensors), which its model's own become on their way into an operation.
    Where it reads a number, as to choose an expert, or calls what torch knows no shapes of, as its own packed int8
    layers, it is called again for real; and for real alone without `fake`, as where it talks to other processes.
    `undo` is called after each call: it takes away what the call left, as gradients.

    Attention is computed from its two products while counting (torch's "math" backend), since the counter
    does not see the fused kernel that a CPU uses. So the count does not depend on the kernel either: backward
    is twice forward, a causal mask saves nothing, and what a fused kernel computes again in its backward pass
    is left out. On a GPU that would take the memory that fused kernels are there to save, so a real call there goes
    through its own kernels, and those count by the same formula; of an input that needs no gradient they
    compute one all the same. Compiled code is counted as it runs without compilation, for inductor's kernels are opaque.

    Source: :mod:`torch.utils.flop_counter`, :mod:`torch._subclasses.fake_tensor`.
    """
    if fake:
        try:
            # Fake tensors warn of what has no fast path; nothing is run.
            with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True) as fakes:
                warnings.simplefilter("ignore")
                return _counted(function, SDPBackend.MATH, _Fakes(fakes))
        except Exception as error:
            _log.warning("FLOPs are counted by a real step, for a fake one says: %s: %s", type(error).__name__, error)
        finally:
            undo()
    try:
        return _counted(function, None if torch.cuda.is_initialized() else SDPBackend.MATH)
    finally:
        undo()


class _Fakes(TorchDispatchMode):
    """A fake for each tensor: by itself, a fake mode lets operations on real ones alone change them in place."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fakes = fakes

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._fake, (args, kwargs or {}))
        return function(*args, **kwargs)

    def _fake(self, value: Any) -> Any:
        # What is made of others is asked to be fake when its parts are used.
        real = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
        if not real or is_traceable_wrapper_subclass(value):
            return value
        return self._fakes.fake_tensor_converter.from_real_tensor(self._fakes, value)


_PLAIN = contextlib.nullcontext()


def _counted(
    function: Callable[[], object],
    attention: SDPBackend | None,
    around: contextlib.AbstractContextManager[object] = _PLAIN,
) -> int:
    mode = FlopCounterMode(display=False, custom_mapping=_formulas())
    kernel = contextlib.nullcontext() if attention is None else sdpa_kernel(attention)
    with warnings.catch_warnings():
        # The counter's hooks on modules; they do nothing that counts twice.
        warnings.filterwarnings("ignore", ".*when there are global hooks on modules", UserWarning)
        with torch.compiler.set_stance("force_eager"), kernel, mode, around:
            function()
    return int(mode.get_total_flops())


def _formulas() -> dict[Any, Callable[..., int]]:
    # bitsandbytes' operators exist once it has been imported, and not before a model of its could be counted.
    products = {
        getattr(namespace, name): _product
        for namespace, names in ((getattr(torch.ops, key), names) for key, names in _QUANTIZED.items())
        for name in names
        if hasattr(namespace, name)
    }
    kernels = [name for name in _FUSED if hasattr(torch.ops.aten, name)]
    forward = {getattr(torch.ops.aten, name): _attention for name in kernels}
    backward = {getattr(torch.ops.aten, f"{name}_backward"): _attention_backward for name in kernels}
    return {**products, **forward, **backward}


_FUSED = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Of ``[batch, heads, tokens, width]``: queries times keys, and the result times values."""
    *of, queries, width = query
    return 2 * math.prod(of) * queries * key[-2] * (width + value[-1])


def _attention_backward(_: torch.Size, *inputs: Any, **__: Any) -> int:
    """Twice forward: each product has a gradient for either factor. torch's own formula has a third for the scores."""
    return 2 * _attention(*inputs)


def _product(activations: torch.Size, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of ``[..., K]`` and K × N, from the shapes that torch's counter passes."""
    output = out_shape if isinstance(out_shape, torch.Size) else out_shape[0]
    return 2 * math.prod(output) * activations[-1]
