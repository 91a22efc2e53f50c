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
    *(
        Metric(name, title, "fraction", "higher", "quality", formula, of_task(name), summary=_FIRST)
        for name, title, formula in (
            ("weighted_f1", "Weighted F1", "F1 of each class, averaged by how many true items it has"),
            ("macro_precision", "Precision", "right predictions of a class over its predictions, averaged over classes"),
            ("macro_recall", "Recall", "right predictions of a class over its items, averaged over classes"),
            ("matthews", "Matthews", "Matthews' correlation of predicted and true classes, −1 to 1"),
            ("pearson", "Pearson", "Pearson's correlation of predicted and true numbers, −1 to 1"),
            ("spearman", "Spearman", "Spearman's correlation: Pearson's of the ranks, −1 to 1"),
            ("entity_f1", "Entity F1", "F1 of entities whose borders and type are both right, over all types (nervaluate's strict)"),
            ("entity_precision", "Entity precision", "right entities over predicted ones, both borders and type (nervaluate's strict)"),
            ("entity_recall", "Entity recall", "right entities over true ones, both borders and type (nervaluate's strict)"),
            ("answer_f1", "Answer F1", "SQuAD's F1 of the words of the answer, of the best of the right answers, the mean over questions"),
            ("exact_match", "Exact match", "answers that are a right answer, as SQuAD normalizes both, over all"),
            ("rouge1", "ROUGE-1", "F1 of single words of the written and the right text, the mean over items"),
            ("rouge2", "ROUGE-2", "F1 of pairs of words of the written and the right text, the mean over items"),
            ("rouge_l", "ROUGE-L", "F1 of the longest common subsequence of words, the mean over items"),
            ("masked_accuracy", "Masked accuracy", "masked tokens of the test split that were the likeliest at their places"),
            ("pair_accuracy", "Pair accuracy", "test pairs that were rightly told to follow one another or not"),
        )
    ),
    Metric(
        "bleu", "BLEU", "points", "higher", "quality", "BLEU of all written texts by sacrebleu, 0 to 100", of_task("bleu"),
        summary=_FIRST,
    ),
    Metric(
        "chrf", "chrF", "points", "higher", "quality", "chrF2 of all written texts by sacrebleu, 0 to 100", of_task("chrf"),
        summary=_FIRST,
    ),
    Metric(
        "brier_score", "Brier score", "squares", "lower", "quality",
        "squared distance of the predicted probabilities from the truth, summed over classes, the mean over items: 0 to 2",
        of_task("brier_score"), summary=_FIRST,
    ),
    Metric(
        "mean_absolute_error", "Mean absolute error", "label", "lower", "quality",
        "distance of the predicted from the true number, in the labels' own unit, the mean over items",
        of_task("mean_absolute_error"), summary=_FIRST,
    ),
    Metric(
        "root_mean_squared_error", "Root mean squared error", "label", "lower", "quality",
        "root of the mean over items of the squared distance of the predicted from the true number, in the labels' own unit",
        of_task("root_mean_squared_error"), summary=_FIRST,
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
