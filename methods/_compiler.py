"""What torch.compile needs of a machine and does to it, for training and for inference alike. No torch at import."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.plan.context import PlanContext
from bench.stage.evidence import Claim

if TYPE_CHECKING:
    from torch._dynamo.callback import CallbackArgs

_RECORDED = ("reduce-overhead", "max-autotune")


def records(device: str, mode: str) -> bool:
    """Whether `mode` records CUDA graphs: a pass replays them, and overwrites what the pass before it gave."""
    return device == "cuda" and mode in _RECORDED


def problems(context: PlanContext, mode: str) -> Iterator[str]:
    """Kernels are built by the machine's own compiler."""
    if context.machine.device == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            yield f"it builds its kernels with a C++ compiler, and there is no `{compiler}`; install one or set CXX"
        if mode == "reduce-overhead":
            yield 'mode "reduce-overhead" is CUDA graphs, which a CPU does not have; leave the mode out'
    elif shutil.which(compiler := os.environ.get("CC", "gcc")) is None and shutil.which("clang") is None:
        yield f"Triton builds its launchers with a C compiler, and there is no `{compiler}`; install one or set CC"


class Recordings:
    """Counts the CUDA graphs that are recorded from here on, ``late`` those inside the clock; torch calls back about them.

    A graph is for one shape of inputs; its first pass runs as any other, the second records it. Make this after
    ``torch.compiler.reset``, which has torch call nobody back any more.
    """

    def __init__(self) -> None:
        from torch._dynamo.callback import callback_handler

        self.count = self.late = 0
        callback_handler.register_start_callback(self._note)

    def close(self) -> None:
        """Count no more."""
        from torch._dynamo.callback import callback_handler

        callback_handler.remove_start_callback(self._note)

    def _note(self, about: CallbackArgs) -> None:
        from torch._dynamo.callback import CallbackTrigger

        from bench.measure import clock

        if about.callback_trigger is CallbackTrigger.CUDAGRAPH_RECORDING:
            self.count += 1
            self.late += clock.runs()


def recorded(found: Recordings | None, late: int) -> Claim:
    """That there are CUDA graphs, and that none was recorded inside the clock."""
    count = found.count if found else 0
    return Claim(
        "all CUDA graphs were recorded before the clock started",
        count > 0 and not late,
        f"{count} graphs, {late} of them inside the clock",
    )
