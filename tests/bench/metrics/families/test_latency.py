"""Figures that are derived from records, against hand computations."""

import pytest

from bench.metrics import registry
from bench.metrics.metric import paired
from bench.metrics.units import show


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
    assert registry.metric("latency_2x7_speedup").improvement(1.1)


@pytest.mark.parametrize("name", ["time_per_token_2x7_speedup", "cpu_prefill_1x16_speedup"])
def test_every_name_finds_its_metric(name):
    assert registry.metric(name).name == name


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.3751, "×", "0.375×"),
        (4.28, "×", "4.28×"),
        (3.14e-7, "nats", "3.14e-07 nats"),
        (2e-4, "nats", "0.000200 nats"),
    ],
)
def test_small_figures_and_ratios_can_be_read(value, unit, text):
    assert show(value, unit) == text


def test_what_is_counted_is_exact_and_what_is_measured_is_not():
    assert registry.metric("weight_bytes").exact
    assert not registry.metric("train_peak_bytes").exact
    assert not registry.metric("latency_1x1").exact


def stage(tokens, seconds, ranks=0, **keys):
    training = {"warmup": 1, "tokens": tokens, "step_seconds": seconds, **({"ranks": [{}] * ranks} if ranks else {})}
    return {"status": "ok", "training": training, **keys}


def test_scaling_efficiency_by_hand():
    nodes = {
        "one": stage([900, 100, 200], [50.0, 1.0, 2.0]),  # 100 tokens/s, after the first step
        "two": stage([900, 100, 200], [70.0, 0.5, 1.5], ranks=2, alone="one"),  # 150
        "four": stage([900, 100, 200], [70.0, 0.5, 0.5], ranks=4, alone="one"),  # 300
    }
    read = registry.metric("scaling_efficiency").read
    two, four, one = (paired(nodes[id_], nodes) for id_ in ("two", "four", "one"))
    assert read([two]) == pytest.approx(150 / (2 * 100))
    assert read([four]) == pytest.approx(300 / (4 * 100))
    # It is the last training's: not of what came before, and there whatever is compressed after it.
    assert read([one, two, {"status": "ok"}]) == pytest.approx(0.75)
    assert read([two, one]) is None


def test_scaling_efficiency_needs_one_process_beside():
    divided = stage([100, 100], [1.0, 1.0], ranks=2, alone="one")
    read = registry.metric("scaling_efficiency").read
    assert read([paired(divided, {})]) is None
    assert read([paired(divided, {"one": stage([1, 1], [1.0, 1.0]) | {"status": "invalid"}})]) is None
    assert read([divided]) is None
    assert read([stage([100, 100], [1.0, 1.0], ranks=2)]) is None
