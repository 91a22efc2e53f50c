"""Throughput and scaling, against hand computations."""

import pytest

from bench.metrics import registry
from bench.metrics.metric import paired


def stage(tokens, seconds, ranks=0, **keys):
    training = {"warmup": 1, "tokens": tokens, "step_seconds": seconds, **({"ranks": [{}] * ranks} if ranks else {})}
    return {"status": "ok", "training": training, **keys}


def test_scaling_efficiency_by_hand():
    nodes = {
        "one": stage([900, 100, 200], [50.0, 1.0, 2.0]),  # 100 tokens/s, after the first step
        "two": stage([900, 100, 200], [70.0, 0.5, 1.5], ranks=2, single_process="one"),  # 150
        "four": stage([900, 100, 200], [70.0, 0.5, 0.5], ranks=4, single_process="one"),  # 300
    }
    read = registry.metric("scaling_efficiency").read
    two, four, one = (paired(nodes[id_], nodes) for id_ in ("two", "four", "one"))
    assert read([two]) == pytest.approx(150 / (2 * 100))
    assert read([four]) == pytest.approx(300 / (4 * 100))
    # It is the last training's: not of what came before, and there whatever is compressed after it.
    assert read([one, two, {"status": "ok"}]) == pytest.approx(0.75)
    assert read([two, one]) is None


def test_scaling_efficiency_needs_one_process_beside():
    divided = stage([100, 100], [1.0, 1.0], ranks=2, single_process="one")
    read = registry.metric("scaling_efficiency").read
    assert read([paired(divided, {})]) is None
    assert read([paired(divided, {"one": stage([1, 1], [1.0, 1.0]) | {"status": "invalid"}})]) is None
    assert read([divided]) is None
    assert read([stage([100, 100], [1.0, 1.0], ranks=2)]) is None


def test_the_first_steps_of_each_process_that_trained_are_not_steady():
    # Of steps 0 to 7 one is warm-up at the beginning, after step 3 and after step 4, where it went on.
    seconds, tokens = [9.0, 1.0, 2.0, 9.0, 9.0, 1.0, 0.5, 0.5], [900, 10, 20, 900, 900, 20, 10, 20]
    record = stage(tokens, seconds)
    record["training"] |= {"resumed": [3, 4], "samples": [1] * 8}
    assert registry.metric("train_tokens_per_second").read([record]) == (10 + 20 + 20 + 10 + 20) / (
        1 + 2 + 1 + 0.5 + 0.5
    )
    assert registry.metric("train_samples_per_second").read([record]) == 5 / 5
    assert registry.metric("train_seconds").read([record]) == 32


def test_where_no_step_is_steady_there_is_no_throughput():
    record = stage([10, 10], [1.0, 1.0])
    record["training"]["resumed"] = [1]
    assert registry.metric("train_tokens_per_second").read([record]) is None
