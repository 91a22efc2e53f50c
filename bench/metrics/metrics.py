"""Every metric, once: its name, unit, direction and formula, and what its clock holds.

Nothing else in the project spells a unit or divides a total by a time. A metric is read from a *path*: the records of
a recipe's stages for one seed, first to last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Record = Mapping[str, Any]
Path = Sequence[Record]


@dataclass(frozen=True)
class Metric:
    """One figure.

    ``better`` is the direction; ``family`` groups metrics in reports; ``formula`` says in words how the value comes
    from the record and what is inside its clock; ``read`` gives the value for a path, None where it was not measured.
    ``exact`` is what is counted rather than measured: one value has no noise.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    family: Literal["quality", "throughput", "memory", "latency", "size", "compute", "time"]
    formula: str
    read: Callable[[Path], float | None]
    exact: bool = False

    def improvement(self, ratio: float) -> bool:
        """Whether `ratio` to the baseline is for the better."""
        return ratio > 1 if self.better == "higher" else ratio < 1


def rate(amounts: Sequence[float], seconds: Sequence[float]) -> float:
    """Total over total time: the only rate there is. Not a mean of rates, not a total over a mean time."""
    return math.fsum(amounts) / math.fsum(seconds)


def _steady(path: Path, what: str) -> float | None:
    amounts: list[float] = []
    seconds: list[float] = []
    for record in path:
        if training := record.get("training"):
            skip = training["warmup"]
            amounts += training[what][skip:]
            seconds += training["step_seconds"][skip:]
    return rate(amounts, seconds) if math.fsum(seconds) > 0 else None


def _sum(path: Path, *keys: str) -> float | None:
    values = [value for record in path if (value := _at(record, *keys)) is not None]
    return math.fsum(math.fsum(value) if isinstance(value, list) else value for value in values) if values else None


def _max(path: Path, *keys: str) -> float | None:
    values = [value for record in path if (value := _at(record, *keys)) is not None]
    return max(values) if values else None


def _last(path: Path, *keys: str) -> float | None:
    return _at(path[-1], *keys) if path else None


def _last_training(path: Path, *keys: str) -> float | None:
    trained = [record for record in path if record.get("training")]
    return _at(trained[-1], "training", *keys) if trained else None


def _at(record: Record, *keys: str) -> Any:
    value: Any = record
    for key in keys:
        if not isinstance(value, Mapping) or value.get(key) is None:
            return None
        value = value[key]
    return value


def paired(record: Record, nodes: Mapping[str, Record]) -> Record:
    """`record` with the same stage's in one process under ``single_process``, where it was divided and `nodes` have that."""
    alone = nodes.get(record.get("alone") or "")
    return {**record, "alone": alone if alone is not None and alone.get("status") == "ok" else None}


def _scaling(path: Path) -> float | None:
    trained = [record for record in path if record.get("training")]
    ranks, alone = (_at(trained[-1], *keys) if trained else None for keys in (("training", "ranks"), ("alone",)))
    if not ranks or not isinstance(alone, Mapping):
        return None
    ours, theirs = _steady(trained[-1:], "tokens"), _steady([alone], "tokens")
    return None if ours is None or not theirs else ours / (len(ranks) * theirs)


def _final_loss(path: Path) -> float | None:
    losses = _last_training(path, "losses")
    if not losses:
        return None
    tail = losses[-max(1, len(losses) // 10) :]  # type: ignore[arg-type, index]
    return math.fsum(tail) / len(tail)


def _forgetting(path: Path) -> float | None:
    before, after = _nats(path[:1], "before"), _nats(path[-1:], "after")
    return None if before is None or after is None else after - before


def _nats(path: Path, when: str) -> float | None:
    """Of a token of the retained task's test split, on average; None where a loss was not finite, too."""
    nats, tokens = (_last(path, "retained", when, "extra", of) for of in ("nats", "tokens"))
    return None if nats is None or not tokens else nats / tokens


Phase = Literal["forward", "prefill", "decode"]
Clock = Literal["wall", "cpu"]

_PHASES: dict[Phase, tuple[str, str, str, str]] = {
    "forward": ("latency", "Latency", "CPU time", "one forward pass of a batch of {of} tokens"),
    "decode": (
        "time_per_token",
        "Time per token",
        "CPU time per token",
        "one more token for each of a batch of {of} tokens, read with the cache of keys and values and chosen greedily, "
        "the mean over a fixed number of tokens; of the model alone, without what transformers' generate does around it, "
        "which on a small model can be as much again (1.39 times on tiny-llama)",
    ),
    "prefill": (
        "prefill",
        "Prefill",
        "CPU time of prefill",
        "reading a batch of prompts of {of} tokens into a new cache of keys and values and choosing the first token",
    ),
}
"""Of each phase of inference: the metric's name, its titles for wall and CPU time, and what the clock holds.

The first that was measured stands for all where there is room for one.
"""


def latency(batch: int, length: int, clock: Clock, phase: Phase = "forward") -> Metric:
    """The metric of one latency shape and phase."""

    def read(path: Path) -> float | None:
        sets = [
            entry["values"]
            for entry in (path[-1].get("latency") or [] if path else [])
            if _shape(entry) == (batch, length, clock, phase)
        ]
        return median(median(values) for values in sets) if sets else None

    name, title, cpu_title, what = _PHASES[phase]
    of = f"{batch}×{length}"
    what = what.format(of=of.replace("×", " × "))
    if clock == "wall":
        return Metric(
            f"{name}_{batch}x{length}", f"{title} {of}", "s", "lower", "latency",
            f"wall time of {what}, all threads, device synchronised; median of samples, then of processes", read,
        )  # fmt: skip
    return Metric(
        f"cpu_{name}_{batch}x{length}", f"{cpu_title} {of}", "s", "lower", "latency",
        f"process CPU time of {what} on one thread, "
        "which other programs on the machine hardly disturb; median of samples, then of processes", read,
    )  # fmt: skip


def decode_rate(batch: int, length: int, clock: Clock) -> Metric:
    """The rate of one decoding shape."""
    of = latency(batch, length, clock, "decode")

    def read(path: Path) -> float | None:
        seconds = of.read(path)
        return None if seconds is None else rate([batch], [seconds])

    prefix, title = ("", "Tokens") if clock == "wall" else ("cpu_", "CPU tokens")
    return Metric(
        f"{prefix}decode_tokens_per_second_{batch}x{length}", f"{title} a second {batch}×{length}", "tokens/s", "higher",
        "latency", f"new tokens of all {batch} answers over their time: {batch} / {of.name}", read,
    )  # fmt: skip


def speedup(batch: int, length: int, clock: Clock, phase: Phase = "forward") -> Metric:
    """How much faster a compressed model is than the uncompressed one, timed in turns."""

    def read(path: Path) -> float | None:
        sets = [
            [theirs / ours for ours, theirs in zip(entry["values"], entry["uncompressed"]["values"], strict=True)]
            for entry in (path[-1].get("latency") or [] if path else [])
            if _shape(entry) == (batch, length, clock, phase) and "uncompressed" in entry
        ]
        return median(median(ratios) for ratios in sets) if sets else None

    of = latency(batch, length, clock, phase)
    return Metric(
        f"{of.name}_speedup", f"{of.title}, gain", "×", "higher", "latency",
        f"{of.name} of the uncompressed model over that of this one, both timed in one process in turns; "
        "median over pairs of neighbouring samples, then over processes", read,
    )  # fmt: skip


def _shape(entry: Mapping[str, Any]) -> tuple[int, int, Clock, Phase]:
    # Records of the first version have no phase.
    return entry["batch"], entry["length"], entry["clock"], entry.get("phase", "forward")


def _quality(name: str) -> Callable[[Path], float | None]:
    return lambda path: _last(path, "quality", "metrics", name)


_TABLE = [
    Metric("accuracy", "Accuracy", "fraction", "higher", "quality", "right predictions over test items", _quality("accuracy")),
    Metric("macro_f1", "Macro F1", "fraction", "higher", "quality", "F1 of each class, averaged with equal weight", _quality("macro_f1")),
    Metric(
        "bits_per_byte", "Bits per byte", "bits", "lower", "quality",
        "cross entropy of all test tokens in bits, over the UTF-8 bytes of the test texts; it compares tokenizers too",
        _quality("bits_per_byte"),
    ),
    Metric(
        "perplexity", "Perplexity", "tokens", "lower", "quality",
        "exponential of the mean cross entropy of a test token in nats: as uncertain as among so many tokens alike",
        _quality("perplexity"),
    ),
    Metric(
        "token_accuracy", "Token accuracy", "fraction", "higher", "quality",
        "test tokens that were the likeliest after those before them, over test tokens", _quality("token_accuracy"),
    ),
    Metric(
        "agreement", "Agreement", "fraction", "higher", "quality",
        "predictions that are those of the uncompressed model, over all: of test items, or of test tokens",
        _quality("agreement"),
    ),
    Metric(
        "kl_divergence", "KL divergence", "nats", "lower", "quality",
        "Kullback-Leibler divergence of the predicted distribution from the uncompressed model's, "
        "Σ p·ln(p/q) with p the uncompressed model's, the mean over test items or test tokens",
        _quality("kl_divergence"),
    ),
    Metric(
        "won", "Won", "count", "higher", "quality",
        "test items, or test tokens, that are right and that the uncompressed model has wrong", _quality("won"),
    ),
    Metric(
        "lost", "Lost", "count", "lower", "quality",
        "test items, or test tokens, that are wrong and that the uncompressed model has right", _quality("lost"),
    ),
    Metric(
        "train_tokens_per_second", "Training throughput", "tokens/s", "higher", "throughput",
        "real (not padding) tokens of the steady steps of all training stages, over the sum of those steps' times; "
        "data loading, warm-up steps, evaluation and checkpoints are outside the clock",
        lambda path: _steady(path, "tokens"),
    ),
    Metric(
        "train_samples_per_second", "Training samples", "samples/s", "higher", "throughput",
        "items of the steady steps of all training stages, over the sum of those steps' times",
        lambda path: _steady(path, "samples"),
    ),
    Metric(
        "scaling_efficiency", "Scaling efficiency", "fraction", "higher", "throughput",
        "real tokens a second of the steady steps of the last training stage, if n processes divide it, over n times those "
        "of the same stage in one process, with the same batch; processes on CPUs share the machine's threads, so that "
        "about 1/n is all that they can reach there", _scaling,
    ),
    Metric(
        "train_seconds", "Training time", "s", "lower", "time",
        "sum of all steps' times over all training stages, warm-up steps included; data loading is outside",
        lambda path: _sum(path, "training", "step_seconds"),
    ),
    Metric(
        "compile_seconds",
        "Compile time",
        "s",
        "lower",
        "time",
        "wall time before the first step of capturing and compiling the model's graphs, with empty caches, and of running "
        "them once for some of the batches' shapes; the sum over all training stages",
        lambda path: _sum(path, "training", "figures", "compile_seconds"),
    ),
    Metric(
        "train_peak_bytes", "Training memory", "B", "lower", "memory",
        "peak bytes while training above what the process held before the model was loaded, weights included: on a GPU "
        "the allocator's peak, on a CPU the kernel's resident high-water mark over the first step and one more on the largest "
        "batch, without freed memory that malloc would keep; the highest of all training stages",
        lambda path: _max(path, "training", "peak_bytes"),
    ),
    Metric(
        "weight_bytes", "Weights", "B", "lower", "memory",
        "storage of parameters and buffers, packed weights included, after the last stage",
        lambda path: _last(path, "weight_bytes"), exact=True,
    ),
    Metric(
        "gradient_bytes", "Gradients", "B", "lower", "memory", "storage of the gradients of one step, last training stage",
        lambda path: _last_training(path, "gradient_bytes"), exact=True,
    ),
    Metric(
        "optimizer_bytes", "Optimizer state", "B", "lower", "memory", "storage of the optimizer's state, last training stage",
        lambda path: _last_training(path, "optimizer_bytes"), exact=True,
    ),
    Metric(
        "activation_bytes", "Saved activations", "B", "lower", "memory",
        "storage of the tensors that autograd saves for the backward pass of the probe batch, parameters left out",
        lambda path: _last_training(path, "activation_bytes"), exact=True,
    ),
    Metric(
        "communicated_bytes", "Sent a step", "B", "lower", "throughput",
        "bytes that one process sends to the others for the gradients of the probe batch: the sizes of all collectives "
        "as they were called, each times the factor of a ring, as 2(n-1)/n for an all-reduce; of the process that sends "
        "most, last training stage",
        lambda path: _last_training(path, "communicated_bytes"), exact=True,
    ),
    Metric(
        "step_flops", "FLOPs a step", "FLOP", "lower", "compute",
        "floating point operations of the forward and backward pass of the probe batch, as torch counts them",
        lambda path: _last_training(path, "step_flops"), exact=True,
    ),
    Metric(
        "inference_peak_bytes", "Inference memory", "B", "lower", "memory",
        "peak bytes during inference above what the process held before the model was loaded, weights included",
        lambda path: _last(path, "inference", "peak_bytes"),
    ),
    Metric(
        "load_peak_bytes", "Memory to load", "B", "lower", "memory",
        "peak bytes while the model, as it was left, is loaded for inference, above what the process held before",
        lambda path: _last(path, "inference", "load_peak_bytes"),
    ),
    Metric(
        "transform_peak_bytes", "Memory to compress", "B", "lower", "memory",
        "peak bytes while a model was compressed, above what the process held before that model was loaded, which is in; "
        "the highest of all compressing stages",
        lambda path: _max(path, "transform", "peak_bytes"),
    ),
    Metric(
        "inference_compile_seconds",
        "Compile time, inference",
        "s",
        "lower",
        "time",
        "wall time that torch.compile takes, with empty caches, over all shapes and numbers of threads at which latency is "
        "measured; it is in warm-ups only; the most of all processes",
        lambda path: _last(path, "inference", "compile_seconds"),
    ),
    Metric(
        "size_on_disk", "Size on disk", "B", "lower", "size", "bytes of the files a user would ship (an adapter without its base)",
        lambda path: _last(path, "size", "bytes"), exact=True,
    ),
    Metric(
        "parameters", "Parameters", "count", "lower", "size", "elements of all weights, at their unpacked shapes",
        lambda path: _last(path, "parameters", "total"), exact=True,
    ),
    Metric(
        "nonzero_parameters", "Non-zero parameters", "count", "lower", "size", "elements of all weights that are not 0",
        lambda path: _last(path, "parameters", "nonzero"), exact=True,
    ),
    Metric(
        "trainable_parameters", "Trainable parameters", "count", "lower", "size", "elements that the last training stage updated",
        lambda path: _last_training(path, "trainable"), exact=True,
    ),
    Metric(
        "final_loss", "Training loss", "nats", "lower", "quality", "mean loss of the last tenth of the last training stage's steps",
        _final_loss,
    ),
    Metric(
        "forgetting", "Forgetting", "nats", "lower", "quality",
        "mean cross entropy of a test token of the retained task (`measure.retain`) after the last stage, minus that of "
        "the model before the first",
        _forgetting,
    ),
]  # fmt: skip

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Those with fixed names; :func:`metric` also knows the latencies."""


def metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        KeyError: there is none.
    """
    names = "|".join(name for name, *_ in _PHASES.values())
    if match := re.fullmatch(rf"(cpu_)?({names}|decode_tokens_per_second)_(\d+)x(\d+)(_speedup)?", name):
        batch, length = int(match[3]), int(match[4])
        clock: Clock = "cpu" if match[1] else "wall"
        for phase, (start, *_) in _PHASES.items():
            if match[2] == start:
                return (speedup if match[5] else latency)(batch, length, clock, phase)
        return decode_rate(batch, length, clock)
    return METRICS[name]


def measured(records: Iterable[Record]) -> list[Metric]:
    """The metrics that `records` can hold: the fixed ones, then each latency shape that occurs."""
    shapes: dict[tuple[int, int, Clock, Phase], bool] = {}  # and whether it was timed beside another model
    for record in records:
        for entry in record.get("latency") or []:
            shape = _shape(entry)
            shapes[shape] = shapes.get(shape, False) or "uncompressed" in entry
    latencies = [latency(*shape) for phase in _PHASES for shape in shapes if shape[-1] == phase]
    rates = [decode_rate(batch, length, clock) for batch, length, clock, phase in shapes if phase == "decode"]
    gains = [speedup(*shape) for phase in _PHASES for shape, beside in shapes.items() if shape[-1] == phase and beside]
    return [*METRICS.values(), *latencies, *rates, *gains]


def show(value: float | None, unit: str) -> str:
    """A value with its unit, in three significant digits: ``1.23 ms``, ``86.7 MB``. "–" where there is none."""
    if value is None:
        return "–"
    if unit == "fraction":
        return f"{value:.3f}"
    for base, names in _PREFIXES.items():
        if unit == base:
            for factor, name in names:
                if abs(value) >= factor or factor == names[-1][0]:
                    return f"{_three(value / factor)} {name}"
    return f"{_three(value)}×" if unit == "×" else f"{_three(value)} {unit}"


_PREFIXES: dict[str, list[tuple[float, str]]] = {
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
    "B": [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")],
    "FLOP": [(1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP")],
    "count": [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")],
}


def _three(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 6)}f}"
