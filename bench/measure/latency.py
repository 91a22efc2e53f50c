"""Latency of one forward pass, as samples that are kept raw.

A sample is the time of ``loops`` forward passes divided by ``loops``, so that no sample is shorter than the
clock and the interpreter's own work are fine. Warm-ups are single passes. No sample is left out and nothing is
summarised: :mod:`bench.metrics` does that when records are read.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from bench.work import evaluating

MIN_SAMPLE_SECONDS = 0.005
"""Below this, a sample is mostly jitter of the scheduler and of the clock."""

MIN_WARMUPS = 3
MAX_WARMUPS = 20

STEADY = 0.10
"""Warmed up is a forward pass whose last three times lie within this share of the shortest of them."""


@dataclass(frozen=True)
class Samples:
    """Seconds of one forward pass: each warm-up's, then each sample's, a mean over ``loops`` passes."""

    loops: int
    warmups: tuple[float, ...]
    values: tuple[float, ...]


def measure(
    forward: Callable[[], object],
    *,
    now: Callable[[], float],
    samples: int,
    min_seconds: float = MIN_SAMPLE_SECONDS,
) -> Samples:
    """Warm `forward` up until it is steady, then time it `samples` times.

    `now` gives seconds and must wait for the device first: :func:`wall_clock`, or ``time.process_time`` on a
    CPU.
    """

    def timed(loops: int) -> float:
        started = now()
        for _ in repeat(None, loops):
            forward()
        return (now() - started) / loops

    warmups: list[float] = []
    while len(warmups) < MAX_WARMUPS and not _steady(warmups):
        warmups.append(timed(1))
    # The shortest, so that a slow first pass does not make samples too short. A clock too coarse to see one
    # pass is given many of them.
    loops = max(1, math.ceil(min_seconds / max(min(warmups), min_seconds / 10_000)))
    return Samples(loops, tuple(warmups), tuple(timed(loops) for _ in range(samples)))


def _steady(seconds: Sequence[float]) -> bool:
    last = seconds[-3:]
    return len(seconds) >= MIN_WARMUPS and max(last) <= min(last) * (1 + STEADY)


def wall_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of wall time, read when all work queued on `device` is done."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def encoder(
    model: torch.nn.Module,
    vocabulary: Any,
    shape: tuple[int, int],
    *,
    device: torch.device,
    samples: int,
    process: int,
    threads: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time one forward pass of `model` on a batch of exactly `shape` ``(batch, length)``, in evaluation mode.

    `vocabulary` is the tokenizer or the number of token ids. `process` numbers the process that asks, for a
    set of samples belongs to one. On a CPU there are two entries: wall time with `threads` threads, and the
    process' CPU time on one thread; on CUDA only wall time. Each is ready for a record's ``latency``::

        {"batch", "length", "clock": "wall" | "cpu", "threads", "unit": "second", "loops", "warmups",
        "values", "process"}

    The number of threads and the modules' modes are as before afterwards. Measure last: what a model builds
    at its first inference stays in it.

    Raises:
        ValueError: the model has no position for a sequence of that length, or the vocabulary no ordinary
        token.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if positions is not None and shape[1] > positions:  # on CUDA the model's own error would end the process
        raise ValueError(f"latency of {shape[1]} tokens: the model's positions end at {positions}")
    inputs = shape_inputs(vocabulary, shape, device, seed)
    clocks = [("wall", threads, wall_clock(device))]
    if device.type == "cpu":
        clocks.append(("cpu", 1, time.process_time))
    entries = []
    with evaluating(model), _no_silent_eager(), _inferring(model, inputs) as forward:
        for clock, used, now in clocks:
            with _threads(used):
                found = measure(forward, now=now, samples=samples)
            entries.append(
                {
                    "batch": shape[0],
                    "length": shape[1],
                    "clock": clock,
                    "threads": used,
                    "unit": "second",
                    "loops": found.loops,
                    "warmups": list(found.warmups),
                    "values": list(found.values),
                    "process": process,
                }
            )
    return entries


def shape_inputs(
    vocabulary: Any, shape: tuple[int, int], device: torch.device, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Ordinary token ids drawn by `seed`, all attended: no padding, so no kernel can skip a token.

    `vocabulary` is the tokenizer, whose special tokens are avoided, or the number of token ids.

    Raises:
        ValueError: there is no ordinary token.
    """
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    special = set() if isinstance(vocabulary, int) else set(vocabulary.all_special_ids)
    ordinary = torch.tensor([token for token in range(size) if token not in special], dtype=torch.long)
    if not len(ordinary):
        raise ValueError("the vocabulary has no token that is not special")
    drawn = torch.randint(len(ordinary), shape, generator=torch.Generator().manual_seed(seed))
    ids = ordinary[drawn].to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextlib.contextmanager
def _inferring(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Iterator[Callable[[], object]]:
    """The forward pass, in inference mode where the model can do that, and without gradients where not.

    Whether it can shows in one pass that is not timed.
    """

    def forward() -> object:
        return model(**inputs)

    if not _rebuilds_weights(model):
        try:
            with torch.inference_mode():
                forward()
        except RuntimeError as error:
            if "inference" not in str(error).lower():
                raise
        else:
            with torch.inference_mode():
                yield forward
            return
    with torch.no_grad():
        yield forward


def _rebuilds_weights(model: torch.nn.Module) -> bool:
    """Whether the first inference replaces weights, as bitsandbytes' 4-bit layers do on a CPU.

    Replaced in inference mode, they could never take part in training again.
    """
    return any(type(module).__module__.startswith("bitsandbytes.") for module in model.modules())


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_silent_eager() -> Iterator[None]:
    """Room for the recompilations that shapes and numbers of threads cause, and an error where it ends.

    torch.compile's default is to go on uncompiled after eight, which would be measured as compiled.
    """
    from torch._dynamo import config

    with config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        yield
