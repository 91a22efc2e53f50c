"""Figures that could not be taken: each with its reason, and what was measured before stays."""

from __future__ import annotations

import contextlib
import errno
import gc
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from bench.models.base import ModelError
from bench.recipe.errors import Refusal

_NO_MEMORY = (
    "can't allocate memory",  # torch's allocator on CPUs
    "not enough memory",
    "out of memory",  # CUDA's errors, whichever of torch's classes they come as, and those that NCCL passes on
    "_ALLOC_FAILED",  # cuBLAS, cuSPARSE, cuSOLVER, cuDNN: CUBLAS_STATUS_ALLOC_FAILED
    "CUFFT_ALLOC_FAILED",
    "Failed to CUDA calloc",  # NCCL
    "Failed to CUDA malloc",
    "bad_alloc",  # C++
    "Failed to allocate memory",  # ONNX Runtime
)


class Absent:
    """``with absent("step_flops"): …`` is where that figure is taken. An error inside is why it is not there.

    The reasons go into ``measured["absent"]`` by the names of what is absent, which are metrics', or ``quality`` for all
    of it. What was half done is let go of, on a GPU too, so that the next measure has its memory.

    Args:
        measured: the record so far.
        strict: whether every error goes on, as where processes wait for each other and one cannot leave its part out.
    """

    def __init__(self, measured: dict[str, Any], *, strict: bool = False) -> None:
        self._measured = measured
        # These say what the recipe is, and not that a measure failed.
        self._passes = (Exception,) if strict else (ModelError, Refusal)

    @contextlib.contextmanager
    def __call__(self, *names: str) -> Iterator[None]:
        """Take `names` inside."""
        try:
            yield
        except self._passes:
            raise
        except Exception as error:
            traceback.print_exc()  # the record has a line of it, the log all
            self.note(said(error), *names)
            _clear(error)
            let_go()

    def note(self, reason: str, *names: str) -> None:
        """`names` are absent for this `reason`."""
        self._measured.setdefault("absent", {}).update(dict.fromkeys(names, reason))


def said(error: BaseException) -> str:
    """`error` in one line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"out of memory: {text}" if out_of_memory(error) else f"{type(error).__name__}: {text}"


def out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out, in the words of whoever asked for it."""
    import torch

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _NO_MEMORY):
            return True
        seen = seen.__cause__
    return False


def _clear(error: BaseException | None) -> None:
    """Let the calls that ended with `error` go of what they held: until it is dealt with, it holds them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def let_go() -> None:
    """Free what nobody holds any more: circles of objects, and on a GPU what torch keeps for later."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
