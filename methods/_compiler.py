"""What torch.compile needs of a machine, for training and for inference alike. No torch here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from bench.method import Place


def problems(place: Place, mode: str) -> Iterator[str]:
    """Kernels are built by the machine's own compiler."""
    if place.machine.device == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            yield f"it builds its kernels with a C++ compiler, and there is no `{compiler}`; install one or set CXX"
        if mode == "reduce-overhead":
            yield 'mode "reduce-overhead" is CUDA graphs, which a CPU does not have; leave the mode out'
    elif shutil.which(compiler := os.environ.get("CC", "gcc")) is None and shutil.which("clang") is None:
        yield f"Triton builds its launchers with a C compiler, and there is no `{compiler}`; install one or set CC"
