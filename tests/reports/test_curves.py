import math

import pytest

from bench.compare.compare import compare
from reports import curves
from tests import synthetic
from tests.synthetic import Method


def drawn(records):
    (found,) = compare(records)
    return curves.losses(found).spec["datasets"]["points"]


def test_recipes_that_share_their_training_share_a_curve():
    names = {point["name"] for point in drawn(synthetic.records())}
    assert "full (+2 that share it)" in names
    assert "int8" not in names


def test_a_curve_is_the_mean_over_seeds_with_their_range():
    records = synthetic.records({"full": Method("full")}, seeds=(0, 1))
    for seed in (0, 1):
        training = records.nodes[f"minilm/stdlib-topics/{seed}/full"]["training"]
        training |= {
            "losses": [2.0 + seed, 1.0 + 3 * seed, math.nan],
            "step_seconds": [0.5, 1.5, 1.0],
            "tokens": [10, 30, 20],
            "samples": [1] * 3,
            "warmup": 0,
        }
    points = drawn(records)
    assert [(p["step"], p["loss"], p["low"], p["high"]) for p in points] == [(1.0, 2.5, 2.0, 3.0), (2.0, 2.5, 1.0, 4.0)]
    assert [(p["seconds"], p["tokens"]) for p in points] == [(0.5, 10.0), (2.0, 40.0)]


def test_seconds_and_tokens_go_on_over_the_stages():
    points = drawn(synthetic.records({"half FFN": synthetic.METHODS["half FFN"]}, seeds=(0,), steps=10))
    assert [point["step"] for point in points] == [float(n) for n in range(1, 14)]
    assert [point["tokens"] for point in points] == sorted(point["tokens"] for point in points)


def test_long_curves_are_thinned_by_means():
    thinned = curves._thinned([float(i) for i in range(1, 1201)])
    assert len(thinned) <= 60
    assert all(point["step"] == pytest.approx(point["loss"]) for point in thinned)
