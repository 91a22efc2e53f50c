"""Latency of an encoder's forward pass and of a decoder's prefill and tokens, as samples that are kept raw.

A sample is the time of ``loops`` forward passes divided by ``loops``, so that no sample is shorter than the
clock and the interpreter's own work are fine. Warm-ups are single passes. No sample is left out and nothing is
summarised: :mod:`bench.metrics` does that when records are read.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from bench.work import evaluating

MIN_SAMPLE_SECONDS = 0.005
"""Below this, a sample is mostly jitter of the scheduler and of the clock."""

MIN_WARMUPS = 3
MAX_WARMUPS = 20

NEW_TOKENS = 16
"""Tokens that a decoder adds to the prompt in one pass of decoding."""

STEADY = 0.10
"""Warmed up is a forward pass whose last three times lie within this share of the shortest of them."""


@dataclass(frozen=True)
class Samples:
    """Seconds of one forward pass: each warm-up's, then each sample's, a mean over ``loops`` passes."""

    loops: int
    warmups: tuple[float, ...]
    values: tuple[float, ...]


def measure(
    forward: Callable[..., object],
    *,
    now: Callable[[], float],
    samples: int,
    min_seconds: float = MIN_SAMPLE_SECONDS,
    fresh: Callable[[], object] | None = None,
) -> Samples:
    """Warm `forward` up until it is steady, then time it `samples` times.

    `now` gives seconds and must wait for the device first: :func:`wall_clock`, or ``time.process_time`` on a
    CPU. `fresh` makes, outside the clock, what each single call of `forward` is given.
    """

    def timed(loops: int) -> float:
        if fresh is None:
            started = now()
            for _ in repeat(None, loops):
                forward()
            return (now() - started) / loops
        spent = 0.0
        for _ in repeat(None, loops):
            given = fresh()
            started = now()
            forward(given)
            spent += now() - started
        return spent / loops

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

        {"phase": "forward", "batch", "length", "clock": "wall" | "cpu", "threads", "unit": "second", "loops",
        "warmups", "values", "process"}

    The number of threads and the modules' modes are as before afterwards. Measure last: what a model builds
    at its first inference stays in it.

    Raises:
        ValueError: the model has no position for a sequence of that length, or the vocabulary no ordinary
        token.
    """
    _check_positions(model, shape[1], f"{shape[1]} tokens")
    inputs = shape_inputs(vocabulary, shape, device, seed)

    def forward() -> object:
        return model(**inputs)

    entries = []
    with evaluating(model), _no_silent_eager(), _inferring(model, forward):
        for clock, used, now in _clocks(device, threads):
            with _threads(used):
                found = measure(forward, now=now, samples=samples)
            entries.append(_entry("forward", shape, clock, used, process, found))
    return entries


def decoder(
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
    """Time `model` as it answers a batch of prompts of exactly `shape` ``(batch, length)``, in evaluation mode.

    There are two phases. "prefill" reads the prompts, fills a new cache of keys and values, and chooses the first
    token. "decode" goes on from there, always with the likeliest token: each of :data:`NEW_TOKENS` passes reads one
    token, and the cache, for each of the batch. A sample of decoding is the time of these passes over their number:
    seconds for each token of an answer. Each begins with the cache of a prefill of its own, which is outside its
    clock.

    Arguments and entries are those of :func:`encoder`, with the phase by its name; those of decoding have
    ``new_tokens`` too, and their ``loops`` counts tokens.

    Raises:
        ValueError: the model has no position for prompt and answer, or the vocabulary no ordinary token.
    """
    from bench.architecture import base

    _check_positions(model, shape[1] + NEW_TOKENS, f"{shape[1]} tokens and {NEW_TOKENS} new ones")
    prompt = shape_inputs(vocabulary, shape, device, seed)
    inner = base(model)
    # Of the prompt, only the last position's logits are wanted; some models can leave the others out.
    one = "logits_to_keep" in inspect.signature(getattr(inner, "_orig_mod", inner).forward).parameters
    last = {"logits_to_keep": 1} if one else {}
    # What PEFT puts in front of every prompt is in the cache after the first pass.
    prompts = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    step = inner if prompts else model

    def prefill() -> tuple[Any, torch.Tensor]:
        outputs = model(**prompt, use_cache=True, **last)
        return outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)

    def decode(state: tuple[Any, torch.Tensor]) -> torch.Tensor:
        cache, token = state
        for _ in repeat(None, NEW_TOKENS):
            outputs = step(input_ids=token, past_key_values=cache, use_cache=True)
            cache, token = outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)
        return token

    entries = []
    with evaluating(model), _no_silent_eager(), _inferring(model, lambda: decode(prefill())):
        for clock, used, now in _clocks(device, threads):
            with _threads(used):
                found = measure(prefill, now=now, samples=samples)
                entries.append(_entry("prefill", shape, clock, used, process, found))
                found = _each(measure(decode, now=now, samples=samples, fresh=prefill), NEW_TOKENS)
                entries.append(_entry("decode", shape, clock, used, process, found) | {"new_tokens": NEW_TOKENS})
    return entries


def _check_positions(model: torch.nn.Module, length: int, what: str) -> None:
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if positions is not None and length > positions:  # on CUDA the model's own error would end the process
        raise ValueError(f"latency of {what}: the model's positions end at {positions}")


def _clocks(device: torch.device, threads: int) -> list[tuple[str, int, Callable[[], float]]]:
    clocks = [("wall", threads, wall_clock(device))]
    return [*clocks, ("cpu", 1, time.process_time)] if device.type == "cpu" else clocks


def _each(found: Samples, parts: int) -> Samples:
    """The time of one of the `parts` that each pass consisted of."""
    warmups, values = ([seconds / parts for seconds in of] for of in (found.warmups, found.values))
    return Samples(found.loops * parts, tuple(warmups), tuple(values))


def _entry(
    phase: str, shape: tuple[int, int], clock: str, threads: int, process: int, found: Samples
) -> dict[str, Any]:
    return {
        "phase": phase,
        "batch": shape[0],
        "length": shape[1],
        "clock": clock,
        "threads": threads,
        "unit": "second",
        "loops": found.loops,
        "warmups": list(found.warmups),
        "values": list(found.values),
        "process": process,
    }


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
def _inferring(model: torch.nn.Module, forward: Callable[[], object]) -> Iterator[None]:
    """Inference mode where the model can do that, and without gradients where not.

    Whether it can shows in one call of `forward` that is not timed.
    """
    if not _rebuilds_weights(model):
        try:
            with torch.inference_mode():
                forward()
        except RuntimeError as error:
            if "inference" not in str(error).lower():
                raise
        else:
            with torch.inference_mode():
                yield
            return
    with torch.no_grad():
        yield


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
