"""How much of the right text a written one has, by the field's own libraries."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.tasks.scores import Score, jackknifed, mean

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


def bleu(right: Sequence[str], written: Sequence[str]) -> Score:
    """BLEU of all texts together by sacrebleu, 0 to 100; an item's part is by the counts of its own n-grams."""
    import numpy as np
    from sacrebleu.metrics import BLEU

    # Of each text alone only the counts are asked for, which do not depend on how its own score is made.
    metric = BLEU(effective_order=True)
    found = [metric.sentence_score(mine, [wanted]) for mine, wanted in zip(written, right, strict=True)]
    sums = np.array([[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found], dtype=np.float64)
    return jackknifed(sums, _bleu)


def _bleu(sums: Array) -> Array:
    import numpy as np
    from sacrebleu.metrics import BLEU

    order = (sums.shape[1] - 2) // 2
    whole = sums.astype(int).tolist()
    scores = [BLEU.compute_bleu(row[:order], row[order:-2], row[-2], row[-1], smooth_method="exp") for row in whole]
    return np.array([each.score for each in scores])


def chrf(right: Sequence[str], written: Sequence[str]) -> Score:
    """chrF2 of all texts together by sacrebleu, 0 to 100. An item's part in it is not known."""
    from sacrebleu.metrics import CHRF

    return Score(float(CHRF().corpus_score(list(written), [list(right)]).score))


def rouge(right: Sequence[str], written: Sequence[str], *names: str) -> dict[str, Score]:
    """F1 of ROUGE by rouge-score, 0 to 1, the mean over items: `names` are of "rouge1", "rouge2" and "rouge_l".

    Words are runs of Latin letters and digits in small letters, without stemming: other scripts have none.
    """
    from rouge_score.rouge_scorer import RougeScorer

    theirs = {name: name.replace("_l", "L") for name in names}
    scorer = RougeScorer(list(theirs.values()))
    found = [scorer.score(wanted, mine) for wanted, mine in zip(right, written, strict=True)]
    return {name: mean([float(each[their].fmeasure) for each in found]) for name, their in theirs.items()}


def exact_match(right: Sequence[str], written: Sequence[str]) -> Score:
    """Texts that are the same but for case, punctuation, articles and white space, over all: SQuAD's rule."""
    return mean([int(normalized(mine) == normalized(wanted)) for mine, wanted in zip(written, right, strict=True)])


def normalized(answer: str) -> str:
    """In small letters, without punctuation and articles, and one space between words."""
    bare = "".join(sign for sign in answer.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
