"""The peak of the bytes that a process holds in a phase: on a CPU by the kernel's mark, on a GPU by the allocator's."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.measure.memory import parts


class Peak:
    """The most that a phase held above what was held when this was made.

    Make it before the model is loaded, so that the weights are in, and after all imports; ``start`` begins a phase,
    ``stop`` gives its peak in bytes. Phases follow each other, they do not nest.

    On CUDA these are the bytes that torch's allocator handed out on `device`, not what the driver, NCCL or
    other libraries take beside; where the process works on several GPUs, from the first on, those of the GPU that
    held most, as each must fit. On a CPU they are the resident bytes of the whole process, and the mark is
    kept by the kernel, so nothing polls. Weights that are mapped from a file count once they have been
    touched (:func:`touch`); the code of libraries that is used for the first time inside counts too, 10 to 20 MB. The
    kernel's own figures may lag by some pages a core. Where there is no such mark, ``stop`` gives None and ``reason``
    says why.

    While it measures on a CPU, what is freed goes back to the kernel at once (:class:`_Heap`), which takes time: most
    of a training is to run between ``pause`` and ``resume``, and the peak is of what comes before and after.

    Source: ``man 5 proc``, clear_refs and status; :func:`torch.cuda.max_memory_allocated`.
    """

    def __init__(self, device: torch.device, gpus: int = 1) -> None:
        self.device = device
        self.reason = ""
        self.paused = False
        self._seen = 0
        if device.type == "cuda":
            torch.cuda.init()
            self._gpus = [device, *(torch.device("cuda", number) for number in range(1, gpus))]
            self._baselines = [torch.cuda.memory_allocated(gpu) for gpu in self._gpus]
            self._marks = [0] * len(self._gpus)
        else:
            self._heap = _Heap()
            _touch_libraries()
            self._heap.lend()
            self.reason = _reset_mark()
            self._baseline = 0 if self.reason else _status("VmRSS")

    def start(self) -> None:
        """Begin a phase: the mark falls to what is held now."""
        self._seen = 0
        if self.device.type == "cuda":
            gc.collect()
            self._marks = [0] * len(self._gpus)
            for gpu in self._gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
        else:
            self.resume()

    def pause(self) -> None:
        """On a CPU, keep the highest mark so far and run fast from here on; on CUDA, where marks cost nothing, nothing."""
        if self.device.type != "cuda":
            self.paused = True
            self._seen = 0 if self.reason else max(self._seen, _status("VmHWM") - self._baseline)
            self._heap.keep()

    def resume(self) -> None:
        """Go on measuring after ``pause``: the mark falls to what is held now."""
        if self.device.type != "cuda":
            self.paused = False
            gc.collect()  # garbage of what came before is not this phase's
            self._heap.lend()
            self.reason = self.reason or _reset_mark()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Leave what is held inside out of a phase that goes on. On a CPU that is for the time of a ``pause``."""
        if self.device.type != "cuda":
            assert self.paused, "pause it first"
            yield
            return
        self._marks = [*map(max, self._marks, self._held())]
        yield
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)

    def _held(self) -> list[int]:
        """The highest marks of the GPUs."""
        return [torch.cuda.max_memory_allocated(gpu) for gpu in self._gpus]

    def stop(self) -> int | None:
        """The highest mark since ``start`` above the baseline, at least 0; None where it cannot be known."""
        if self.device.type == "cuda":
            peaks = [*map(max, self._marks, self._held())]
            return max(0, *(peak - held for peak, held in zip(peaks, self._baselines, strict=True)))
        if not self.paused:
            self.pause()
        return None if self.reason else self._seen


def touch(model: torch.nn.Module) -> None:
    """Read every page of a CPU model's weights: of those that are mapped from a file, only what was read is resident.

    Else the peak would grow with the words that a training meets, by the rows of the embeddings.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        for part in parts(tensor):
            if part.device.type == "cpu" and part.layout == torch.strided:
                torch.empty(0, dtype=torch.uint8).set_(part.untyped_storage())[::_PAGE].sum()


class _Heap:
    """glibc's malloc, told what to do with freed memory. Elsewhere it stays as it is.

    By itself it takes ever larger blocks from a heap that it keeps, whose holes and resident pages grow with the number
    of steps: 134 MB of a bare loop at 8 steps, 145 at 40. Taking each from the kernel shows what is really
    held, 110 and 111, yet every page is then made and filled with zeros anew, and steps take 6 to 40 % longer.

    Source: ``man 3 mallopt``; a threshold that was set does not move by itself any more.
    """

    def __init__(self) -> None:
        self._holes: list[int] = []
        libc: Any = ctypes.CDLL(None)
        self._libc: Any = libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
        self._info: Any = getattr(libc, "mallinfo2", None)  # there from glibc 2.33 on
        if self._info:
            self._info.restype = _MallInfo
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            libc.free.argtypes = [ctypes.c_void_p]
        self._set(_LENT)

    def lend(self) -> None:
        """From here on, memory is the kernel's again as soon as it is freed."""
        if self._libc:
            self._set(_LENT)
            self._libc.malloc_trim(0)
            if self._info:
                self._fill_holes()

    def keep(self) -> None:
        """From here on, freed memory is kept for what comes next, which is fast, and as if 32 MB had been freed once."""
        if self._libc:
            for hole in self._holes:
                self._libc.free(hole)
            self._holes.clear()
            self._set(_KEPT)

    def _set(self, threshold: int) -> None:
        if self._libc:
            self._libc.mallopt(_M_MMAP_THRESHOLD, threshold)
            self._libc.mallopt(_M_TRIM_THRESHOLD, 2 * threshold)

    def _fill_holes(self) -> None:
        """Take the holes of the heap, and touch none: malloc would use them first, and keep their pages."""
        size = _KEPT
        while size >= _LENT:
            free = self._info().fordblks
            block = self._libc.malloc(size) if free >= size else None
            if block and self._info().fordblks <= free - size:
                self._holes.append(block)
            else:  # no hole is as large, and it is a mapping of its own
                self._libc.free(block)
                size //= 2


class _MallInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LENT = 128 * 2**10
"""Bytes from which a block is a mapping of its own: glibc's first threshold, and the smallest that it moves to."""
_KEPT = 32 * 2**20
"""The highest that glibc moves it to by itself."""
_PAGE = 4096


_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise LookupError(key)


def _reset_mark() -> str:
    """Reset the kernel's high-water mark of this process; says why that failed, or nothing."""
    try:
        _CLEAR_REFS.write_text("5")
        _status("VmHWM")
    except OSError as error:
        return f"peak memory on a CPU needs Linux's {error.filename or _CLEAR_REFS}: {error.strerror}"
    except LookupError as error:
        return f"peak memory on a CPU needs a kernel that shows {error.args[0]} in {_STATUS}"
    return ""


def _touch_libraries() -> None:
    """One tiny training step: else the first real one is charged for the code that it is the first to touch.

    Seen on a forkserver's child: 20 MB of a 120 MB inference. Nothing random in it, so no seed is used up.
    """
    with torch.enable_grad():
        weight = torch.full((8, 8), 0.1, requires_grad=True)
        inputs = torch.nn.functional.embedding(torch.zeros(1, 8, dtype=torch.long), weight)
        hidden = torch.nn.functional.layer_norm(torch.nn.functional.linear(inputs, weight), (8,))
        hidden = torch.nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)
        targets = torch.zeros(8, dtype=torch.long)
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.gelu(hidden)[0], targets)
        loss.backward()
        torch.optim.AdamW([weight], fused=True).step()
