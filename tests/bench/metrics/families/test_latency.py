"""Latencies and gains that are derived from records, against hand computations."""

import pytest

from bench.metrics import registry


def entry(values, uncompressed=None, **keys):
    beside = {} if uncompressed is None else {"uncompressed": {"loops": 1, "warmups": [], "values": uncompressed}}
    return {"phase": "forward", "batch": 2, "length": 7, "clock": "wall", "values": values, **keys, **beside}


def test_a_gain_is_the_median_of_neighbours_ratios():
    # A machine that slows down to a third half way does not show: every pair stood under the same load.
    record = {"latency": [entry([1.0, 1.0, 3.0], [2.0, 2.2, 6.0]), entry([1.0], [4.0], clock="cpu")]}
    assert registry.metric("latency_2x7_speedup").read([record]) == pytest.approx(2.0)
    assert registry.metric("cpu_latency_2x7_speedup").read([record]) == 4.0
    assert registry.metric("latency_2x7").read([record]) == 1.0
    two = {"latency": [entry([1.0], [2.0]), entry([1.0], [3.0])]}
    assert registry.metric("latency_2x7_speedup").read([two]) == 2.5


def test_a_gain_is_there_only_where_an_uncompressed_model_was_timed():
    alone, beside = {"latency": [entry([1.0])]}, {"latency": [entry([1.0], [2.0])]}
    assert registry.metric("latency_2x7_speedup").read([alone]) is None
    assert not [each for each in registry.measured([alone]) if each.name.endswith("_speedup")]
    assert [each.name for each in registry.measured([beside]) if each.name.endswith("_speedup")] == [
        "latency_2x7_speedup"
    ]
    assert registry.metric("latency_2x7_speedup").better == "higher"


@pytest.mark.parametrize("name", ["time_per_token_2x7_speedup", "cpu_prefill_1x16_speedup"])
def test_every_name_finds_its_metric(name):
    assert registry.metric(name).name == name
