from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from bench.tasks.scores import Score, jackknifed, mean, of_tokens, quality


def test_a_mean_has_the_items_own_values() -> None:
    assert mean([1, 0, 1, 1]) == Score(0.75, (1, 0, 1, 1))


def test_a_jackknifed_mean_is_the_mean_with_its_items() -> None:
    values = [0.5, 2.0, 3.5, 1.0]
    score = jackknifed(np.array([[value, 1.0] for value in values]), lambda sums: sums[:, 0] / sums[:, 1])
    assert score.value == pytest.approx(1.75)
    assert score.items == pytest.approx(values)


def test_a_ratio_by_hand() -> None:
    # 6/9; without an item 5/7, 4/6 and 3/5: mean .660317. The score plus twice the mean less each of them:
    score = jackknifed(np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), lambda sums: sums[:, 0] / sums[:, 1])
    without = [5 / 7, 4 / 6, 3 / 5]
    assert score.value == pytest.approx(2 / 3)
    assert score.items == pytest.approx([2 / 3 + 2 * (sum(without) / 3 - each) for each in without])
    assert sum(score.items) / 3 == pytest.approx(score.value)


def test_the_spread_of_the_items_gives_the_standard_error_that_repeated_draws_show() -> None:
    draw = random.Random(1)

    def f1() -> Score:
        sums = [[float(draw.random() < 0.6), 1.0 + (draw.random() < 0.3)] for _ in range(200)]
        return jackknifed(np.array(sums), lambda each: 2 * each[:, 0] / (each[:, 1] + 200))

    scores = [f1() for _ in range(300)]
    seen = statistics.stdev(score.value for score in scores)
    told = statistics.fmean(statistics.stdev(score.items) / math.sqrt(200) for score in scores)
    assert told == pytest.approx(seen, rel=0.15)


def test_one_item_is_the_score() -> None:
    assert jackknifed(np.array([[3.0]]), lambda sums: sums[:, 0]).items == (3.0,)


def test_quality_has_all_scores_and_the_items_of_the_first() -> None:
    found = quality({"accuracy": mean([1, 0]), "macro_f1": Score(0.4)}, "accuracy", (1, 1), {"n": 2})
    assert (found.metrics, found.correct, found.predictions) == ({"accuracy": 0.5, "macro_f1": 0.4}, (1, 0), (1, 1))


@pytest.mark.parametrize("metric", ["bits_per_byte", "perplexity", "token_accuracy"])
def test_the_mean_of_the_texts_parts_is_the_metric_that_ranks(metric: str) -> None:
    scores = of_tokens([8.0, 3.0, 6.5], [1, 2, 0], [4, 3, 2], [9, 8, 7], metric)
    expected = {
        "bits_per_byte": 17.5 / math.log(2) / 24,
        "perplexity": math.exp(17.5 / 9),
        "token_accuracy": 3 / 9,
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)
    assert sum(scores[metric].items) / 3 == pytest.approx(expected[metric])
    assert len(set(scores[metric].items)) == 3
