"""Latency of an encoder's forward pass and of a prefill and tokens of a model that writes, as samples that are kept raw.

A sample is the time of ``loops`` forward passes divided by ``loops``, so that no sample is shorter than the
clock and the interpreter's own work are fine; each pass begins when the device has done the one before. Warm-ups are
single passes. No sample is left out and nothing is
summarised: :mod:`bench.metrics.families.latency` does that when records are read.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from bench.measure import clock
from bench.measure.turns import order
from bench.metrics.families.latency import Phase
from bench.models import signature
from bench.models.modes import evaluating
from bench.suite.suite import NEW_TOKENS
from bench.tasks.base import first

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


@dataclass(frozen=True)
class Pass:
    """What is timed. ``fresh`` makes, outside the clock, what each single call of ``run`` is given."""

    run: Callable[..., object]
    fresh: Callable[[], object] | None = None


def measure(
    *passes: Pass,
    now: Callable[[], float],
    samples: int,
    min_seconds: float = MIN_SAMPLE_SECONDS,
    wait: Callable[[], object] | None = None,
) -> list[Samples]:
    """Warm each of `passes` up until it is steady, then time each `samples` times; the samples of each, in their order.

    Several take turns, and the order turns round with every sample: whatever slows the machine down meanwhile slows
    all of them, so the ratio of two samples of one turn is that of the two passes. With no samples each runs
    once.

    `now` gives seconds and must wait for the device first: :func:`wall_clock`, or ``time.process_time`` on a CPU.
    `wait` waits for the device too, after each pass of a sample: queued back to back, passes would overlap with the
    work of queueing the next, which is throughput. None where a pass is done when its call returns.
    """

    def timed(one: Pass, loops: int) -> float:
        if one.fresh is None:
            started = now()
            for _ in repeat(None, loops):
                one.run()
                if wait is not None:
                    wait()
            return (now() - started) / loops
        spent = 0.0
        for _ in repeat(None, loops):
            given = one.fresh()
            started = now()
            one.run(given)
            spent += now() - started
        return spent / loops

    if not samples:
        return [Samples(1, (timed(one, 1),), ()) for one in passes]
    warmups: list[list[float]] = []
    for one in passes:
        warmups.append([])
        while len(warmups[-1]) < MAX_WARMUPS and not _steady(warmups[-1]):
            warmups[-1].append(timed(one, 1))
    # The shortest, so that a slow first pass does not make samples too short. A clock too coarse to see one
    # pass is given many of them.
    loops = [max(1, math.ceil(min_seconds / max(min(of), min_seconds / 10_000))) for of in warmups]
    values: list[list[float]] = [[] for _ in passes]
    with clock.running():
        for which in order(samples, len(passes)):
            values[which].append(timed(passes[which], loops[which]))
    return [Samples(*of) for of in zip(loops, map(tuple, warmups), map(tuple, values), strict=True)]


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


def _wait(device: torch.device) -> Callable[[], object] | None:
    return functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else None


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
    uncompressed: torch.nn.Module | None = None,
    choices: int = 0,
) -> list[dict[str, Any]]:
    """Time one forward pass of `model` on a batch of exactly `shape` ``(batch, length)``, in evaluation mode.

    With `choices`, each item of the batch is so many texts of that length.

    `vocabulary` is the tokenizer or the number of token ids. `process` numbers the process that asks, for a
    set of samples belongs to one. On a CPU there are two entries: wall time with `threads` threads, and the
    process' CPU time on one thread; on CUDA only wall time. Each is ready for a record's ``latency``::

        {"phase": "forward", "batch", "length", "clock": "wall" | "cpu", "threads", "unit": "second", "loops",
        "warmups", "values", "process"}

    A `uncompressed` is another model that reads the same tokens. The two take turns (:func:`measure`), and its
    ``{"loops", "warmups", "values"}`` are the entry's ``uncompressed``: its n-th value was taken beside the n-th of
    the model's.

    The number of threads and the modules' modes are as before afterwards. Measure last: what a model builds
    at its first inference stays in it.

    Raises:
        ValueError: the model has no position for a sequence of that length, or the vocabulary no ordinary
        token.
    """
    models = _both(model, uncompressed)
    _check_positions(models, shape[1], f"{shape[1]} tokens")
    inputs = shape_inputs(vocabulary, shape, device, seed, choices)
    passes = [Pass(functools.partial(each, **inputs)) for each in models]

    entries = []
    with _evaluating(models), _no_silent_eager(), _inferring(models, [one.run for one in passes]):
        for clock, used, now in _clocks(device, threads):
            with _threads(used):
                found = measure(*passes, now=now, samples=samples, wait=_wait(device))
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
    uncompressed: torch.nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Time `model` as it answers a batch of prompts of exactly `shape` ``(batch, length)``, in evaluation mode.

    There are two phases. "prefill" reads the prompts, fills a new cache of keys and values, and chooses the first
    token; of a model with an encoder, which reads the prompts, its decoder writes that token. "decode" goes on from there, always with the likeliest token: each of :data:`NEW_TOKENS` passes reads one
    token, and the cache, for each of the batch. A sample of decoding is the time of these passes over their number:
    seconds for each token of an answer. Each begins with the cache of a prefill of its own, which is outside its
    clock.

    Arguments and entries are those of :func:`encoder`, with the phase by its name; those of decoding have
    ``new_tokens`` too, and their ``loops`` counts tokens.

    Raises:
        ValueError: the model takes no cache or has no position for prompt and answer, or the vocabulary has no ordinary
        token.
    """
    models = _both(model, uncompressed)
    _check_positions(models, shape[1] + NEW_TOKENS, f"{shape[1]} tokens and {NEW_TOKENS} new ones")
    prompt = shape_inputs(vocabulary, shape, device, seed)
    answers = [Continuation(each, prompt) for each in models]
    prefills = [Pass(answer.prefill) for answer in answers]
    decodes = [Pass(answer.decode, fresh=answer.prefill) for answer in answers]

    entries = []
    with _evaluating(models), _no_silent_eager(), _inferring(models, [answer.whole for answer in answers]):
        for clock, used, now in _clocks(device, threads):
            with _threads(used):
                found = measure(*prefills, now=now, samples=samples, wait=_wait(device))
                entries.append(_entry("prefill", shape, clock, used, process, found))
                found = [_each(of, NEW_TOKENS) for of in measure(*decodes, now=now, samples=samples)]
                entries.append(_entry("decode", shape, clock, used, process, found) | {"new_tokens": NEW_TOKENS})
    return entries


@contextlib.contextmanager
def ready(
    model: torch.nn.Module,
    vocabulary: Any,
    shape: tuple[int, int],
    device: torch.device,
    *,
    generates: bool,
    choices: int = 0,
) -> Iterator[dict[Phase, tuple[Pass, int]]]:
    """What is timed of each phase of `model` on a batch of `shape`, and how many parts that consists of, to be timed inside.

    The phases and the rest are those of :func:`decoder` where the model `generates`, of :func:`encoder` otherwise.
    """
    _check_positions([model], shape[1] + NEW_TOKENS * generates, f"{shape[1]} tokens")
    inputs = shape_inputs(vocabulary, shape, device, choices=choices)
    run: Callable[..., object]
    phases: dict[Phase, tuple[Pass, int]]
    if generates:
        answer = Continuation(model, inputs)
        run = answer.whole
        phases = {"prefill": (Pass(answer.prefill), 1), "decode": (Pass(answer.decode, answer.prefill), NEW_TOKENS)}
    else:
        run = functools.partial(model, **inputs)
        phases = {"forward": (Pass(run), 1)}
    with _evaluating([model]), _no_silent_eager(), _inferring([model], [run]):
        yield phases


class Continuation:
    """The two phases of a decoder's answer to `prompt`."""

    def __init__(self, model: torch.nn.Module, prompt: Mapping[str, torch.Tensor]) -> None:
        from bench.models.architecture import unwrapped

        inner = unwrapped(model)
        # Of the prompt, only the last position's logits are wanted; some models can leave the others out.
        one = "logits_to_keep" in signature.arguments(model)
        # What PEFT puts in front of every prompt is in the cache after the first pass.
        prompts = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        more: dict[str, Any] = {"logits_to_keep": 1} if one else {}
        self._mask: torch.Tensor | None = None
        if "decoder_input_ids" in signature.arguments(model):
            # Of what the encoder read, the mask is the decoder's too; one that writes begins with a token of its own.
            self._mask = prompt["attention_mask"]
            begin = first(
                *(getattr(of, "decoder_start_token_id", None) for of in (inner.generation_config, inner.config)), 0
            )
            more["decoder_input_ids"] = torch.full_like(prompt["input_ids"][:, :1], begin)
        self._read = functools.partial(model, **prompt, use_cache=True, **more)
        self._step = inner if prompts else model
        name = signature.cache_name(model)
        if name is None:
            raise ValueError(
                "the model takes no cache of keys and values, so each token would read all before it again"
            )
        self._cache = name

    def prefill(self) -> tuple[Any, torch.Tensor, dict[str, Any]]:
        """The cache of keys and values, the first token of each answer, and what an encoder read of the prompt."""
        outputs = self._read()
        read = {} if self._mask is None else {"encoder_outputs": (outputs.encoder_last_hidden_state,)}
        return getattr(outputs, self._cache), outputs.logits[:, -1:].argmax(-1), read

    def decode(self, state: tuple[Any, torch.Tensor, dict[str, Any]]) -> torch.Tensor:
        """The last of :data:`NEW_TOKENS` more tokens of each answer."""
        cache, token, read = state
        word = "input_ids"
        if self._mask is not None:
            word = "decoder_input_ids"
            width = read["encoder_outputs"][0].shape[1] - self._mask.shape[1]  # virtual tokens stand before the prompt
            read = {**read, "attention_mask": torch.nn.functional.pad(self._mask, (width, 0), value=1)}
        for _ in repeat(None, NEW_TOKENS):
            outputs = self._step(**{word: token, self._cache: cache}, use_cache=True, **read)
            cache, token = getattr(outputs, self._cache), outputs.logits[:, -1:].argmax(-1)
        return token

    def whole(self) -> torch.Tensor:
        """Both."""
        return self.decode(self.prefill())


def _both(model: torch.nn.Module, uncompressed: torch.nn.Module | None) -> list[torch.nn.Module]:
    return [model] if uncompressed is None else [model, uncompressed]


def _check_positions(models: Iterable[torch.nn.Module], length: int, what: str) -> None:
    for model in models:
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
    phase: str, shape: tuple[int, int], clock: str, threads: int, process: int, found: Sequence[Samples]
) -> dict[str, Any]:
    own, *uncompressed = found
    return {
        "phase": phase,
        "batch": shape[0],
        "length": shape[1],
        "clock": clock,
        "threads": threads,
        "unit": "second",
        **_raw(own),
        "process": process,
        **({"uncompressed": _raw(uncompressed[0])} if uncompressed else {}),
    }


def _raw(found: Samples) -> dict[str, Any]:
    return {"loops": found.loops, "warmups": list(found.warmups), "values": list(found.values)}


def shape_inputs(
    vocabulary: Any, shape: tuple[int, int], device: torch.device, seed: int = 0, choices: int = 0
) -> dict[str, torch.Tensor]:
    """Ordinary token ids drawn by `seed`, all attended: no padding, so no kernel can skip a token.

    With `choices`, each item of `shape` is so many texts: ``[items, choices, tokens]``.

    `vocabulary` is the tokenizer, whose special tokens are avoided, or the number of token ids.

    Raises:
        ValueError: there is no ordinary token.
    """
    size = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    special = set() if isinstance(vocabulary, int) else set(vocabulary.all_special_ids)
    ordinary = torch.tensor([token for token in range(size) if token not in special], dtype=torch.long)
    if not len(ordinary):
        raise ValueError("the vocabulary has no token that is not special")
    whole = (shape[0], choices, shape[1]) if choices else shape
    drawn = torch.randint(len(ordinary), whole, generator=torch.Generator().manual_seed(seed))
    ids = ordinary[drawn].to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextlib.contextmanager
def _evaluating(models: Iterable[torch.nn.Module]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
        yield


@contextlib.contextmanager
def _inferring(models: Iterable[torch.nn.Module], runs: Iterable[Callable[[], object]]) -> Iterator[None]:
    """Inference mode where all the models can do that, and without gradients where not."""
    each = [_can_infer(model, run) for model, run in zip(models, runs, strict=True)]
    with torch.inference_mode() if all(each) else torch.no_grad():
        yield


def _can_infer(model: torch.nn.Module, run: Callable[[], object]) -> bool:
    """Whether `model` runs in inference mode. It shows in one call of `run`, which is not timed."""
    if _rebuilds_weights(model):
        return False
    try:
        with torch.inference_mode():
            run()
    except RuntimeError as error:
        if "inference" not in str(error).lower():
            raise
        return False
    return True


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
