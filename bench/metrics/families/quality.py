"""How good the model is: what tasks return, what a compressed model keeps of another's answers, and losses."""

from __future__ import annotations

import math

from bench.metrics.metric import Metric, Path, Summary, last, last_training, of_task

_FIRST = Summary(order=0)
"""What ranks recipes where records do not say what their task is ranked by."""


def _final_loss(path: Path) -> float | None:
    losses = last_training("losses")(path)
    if not losses:
        return None
    tail = losses[-max(1, len(losses) // 10) :]  # type: ignore[arg-type, index]
    return math.fsum(tail) / len(tail)


def _forgetting(path: Path) -> float | None:
    before, after = _nats(path[:1], "before"), _nats(path[-1:], "after")
    return None if before is None or after is None else after - before


def _nats(path: Path, when: str) -> float | None:
    """Of a token of the retained task's test split, on average; None where a loss was not finite, too."""
    nats, tokens = (last("retained", when, "extra", of)(path) for of in ("nats", "tokens"))
    return None if nats is None or not tokens else nats / tokens


METRICS = [
    Metric(
        "accuracy", "Accuracy", "fraction", "higher", "quality", "right predictions over test items", of_task("accuracy"),
        summary=_FIRST,
    ),
    Metric(
        "macro_f1", "Macro F1", "fraction", "higher", "quality", "F1 of each class, averaged with equal weight",
        of_task("macro_f1"), summary=_FIRST,
    ),
    Metric(
        "bits_per_byte", "Bits per byte", "bits", "lower", "quality",
        "cross entropy of all test tokens in bits, over the UTF-8 bytes of the test texts; it compares tokenizers too",
        of_task("bits_per_byte"), summary=_FIRST,
    ),
    Metric(
        "perplexity", "Perplexity", "tokens", "lower", "quality",
        "exponential of the mean cross entropy of a test token in nats: as uncertain as among so many tokens alike",
        of_task("perplexity"), summary=_FIRST,
    ),
    Metric(
        "token_accuracy", "Token accuracy", "fraction", "higher", "quality",
        "test tokens that were the likeliest after those before them, over test tokens", of_task("token_accuracy"),
        summary=_FIRST,
    ),
    Metric(
        "agreement", "Agreement", "fraction", "higher", "quality",
        "predictions that are those of the uncompressed model, over all: of test items, or of test tokens",
        of_task("agreement"), about="compression",
    ),
    Metric(
        "kl_divergence", "KL divergence", "nats", "lower", "quality",
        "Kullback-Leibler divergence of the predicted distribution from the uncompressed model's, "
        "Σ p·ln(p/q) with p the uncompressed model's, the mean over test items or test tokens",
        of_task("kl_divergence"), about="compression", summary=Summary(order=10, heading="diver-\ngence"),
    ),
    Metric(
        "won", "Won", "count", "higher", "quality",
        "test items, or test tokens, that are right and that the uncompressed model has wrong", of_task("won"),
        about="compression",
    ),
    Metric(
        "lost", "Lost", "count", "lower", "quality",
        "test items, or test tokens, that are wrong and that the uncompressed model has right", of_task("lost"),
        about="compression",
    ),
    # The loss is what was trained on, not what was asked for: it does not rank recipes.
    Metric(
        "final_loss", "Training loss", "nats", "lower", "quality", "mean loss of the last tenth of the last training stage's steps",
        _final_loss, about="training",
    ),
    Metric(
        "forgetting", "Forgetting", "nats", "lower", "quality",
        "mean cross entropy of a test token of the retained task (`measure.retain`) after the last stage, minus that of "
        "the model before the first",
        _forgetting, summary=_FIRST,
    ),
]  # fmt: skip
