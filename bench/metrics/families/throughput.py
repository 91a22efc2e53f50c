"""How fast training goes, and what a step takes in time, operations and bytes sent."""

from __future__ import annotations

from collections.abc import Mapping

from bench.metrics.metric import Metric, Path, Summary, at, last_training, steady, total


def _scaling(path: Path) -> float | None:
    trained = [record for record in path if record.get("training")]
    ranks, alone = (
        at(trained[-1], *keys) if trained else None for keys in (("training", "ranks"), ("single_process",))
    )
    if not ranks or not isinstance(alone, Mapping):
        return None
    read = steady("tokens")
    ours, theirs = read(trained[-1:]), read([alone])
    return None if ours is None or not theirs else ours / (len(ranks) * theirs)


METRICS = [
    Metric(
        "train_tokens_per_second", "Training throughput", "tokens/s", "higher", "throughput",
        "real (not padding) tokens of the steady steps of all training stages, over the sum of those steps' times; "
        "data loading, warm-up steps, evaluation and checkpoints are outside the clock. In a comparison, a step is as much "
        "longer or shorter than the baseline's as it was when the two trainings took turns, where they did",
        steady("tokens"), about="training", summary=Summary(order=20, heading="train\nspeed", best="trains fastest"),
    ),
    Metric(
        "train_samples_per_second", "Training samples", "samples/s", "higher", "throughput",
        "items of the steady steps of all training stages, over the sum of those steps' times, which are those of "
        "train_tokens_per_second",
        steady("samples"), about="training",
    ),
    Metric(
        "scaling_efficiency", "Scaling efficiency", "fraction", "higher", "throughput",
        "real tokens a second of the steady steps of the last training stage, if n processes divide it, over n times those "
        "of the same stage in one process, with the same batch; processes on CPUs share the machine's threads, so that "
        "about 1/n is all that they can reach there", _scaling, about="training",
    ),
    Metric(
        "train_seconds", "Training time", "s", "lower", "time",
        "sum of all steps' times over all training stages; data loading is outside. Warm-up steps are included, and the times "
        "of all others are those of train_tokens_per_second",
        total("training", "step_seconds"), about="training",
    ),
    Metric(
        "communicated_bytes", "Sent a step", "B", "lower", "throughput",
        "bytes that one process sends to the others for the gradients of the probe batch: the sizes of all collectives "
        "as they were called, each times the factor of a ring, as 2(n-1)/n for an all-reduce; of the process that sends "
        "most, last training stage",
        last_training("communicated_bytes"), exact=True, about="training",
    ),
    Metric(
        "step_flops", "FLOPs a step", "FLOP", "lower", "compute",
        "floating point operations of the forward and backward pass of the probe batch, as torch counts them",
        last_training("step_flops"), exact=True, about="training",
    ),
]  # fmt: skip
