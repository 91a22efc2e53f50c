"""Picking: estimates decide, what intervals cross is said, and every recipe is accounted for."""

import math

import pytest

import bench
from bench.compare.compare import compare
from bench.compare.pick import pick
from bench.metrics.metric import MetricError
from tests import synthetic
from tests.synthetic import Method

METHODS = {
    "full": Method("full", 0.75, step=1.1),
    "slow": Method("lora(r=8)", 0.74, step=2.0, memory=0.4),
    "fast": Method("ia3", 0.70, step=0.5, memory=0.5),
    "best": Method("bitfit", 0.80, memory=0.9),
    "lost": Method("head", status="oom", reason="needed more"),
}


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records(METHODS, noise=0.001, items=4000))
    return found


def value(comparison, name, metric):
    return next(row for row in comparison.rows if row.name == name).figures[metric].value


@pytest.mark.parametrize(
    ("bounds", "by", "names"),
    [
        ([], "quality", ["best", "full", "slow", "fast"]),
        ([], "throughput", ["fast", "best", "full", "slow"]),
        ([("max", "train_peak_bytes", "500MB")], "accuracy", ["slow", "fast"]),
        ([("max", "train_peak_bytes", "500MB"), ("min", "accuracy", "72%")], "throughput", ["slow"]),
        ([("min", "accuracy", 0.95)], "throughput", []),
    ],
)
def test_the_best_that_keeps_to_all_bounds_is_first(comparison, bounds, by, names):
    found = pick(comparison, bounds, by)
    kept = [row.name for row in found.candidates]
    assert kept == names
    assert found.row == (found.candidates[0] if names else None)


def test_of_a_key_with_two_metrics_the_worse_counts(comparison):
    peak = max(value(comparison, "fast", name) for name in ("train_peak_bytes", "inference_peak_bytes"))
    for limit, holds in ((peak * 1.001, True), (peak * 0.999, False)):
        found = pick(comparison, [("max", "peak_memory", f"{limit:.0f}")])
        assert ("fast" in [row.name for row in found.candidates]) is holds


def test_who_is_excluded_is_counted_and_the_nearest_that_misses_nothing_else_is_first(comparison):
    found = pick(comparison, [("max", "peak_memory", "500MB"), ("min", "accuracy", "0.755")])
    memory, accuracy = found.bounds
    assert found.row is None
    assert {row.name for row in found.excluded(memory)} == {"full", "best"}
    assert found.excluded(memory)[0].name == "best"  # the other has more, and both keep to the rest
    assert [row.name for row in found.excluded(accuracy)] == ["slow", "fast"]
    assert [row.name for row in found.without_result] == ["lost"]


def test_an_interval_that_crosses_a_bound_may_not_hold(comparison):
    row = next(row for row in comparison.rows if row.name == "best")
    low, high = row.figures["accuracy"].interval
    mean = row.figures["accuracy"].value
    for limit, doubtful in (((low + mean) / 2, True), (low - 0.001, False)):
        found = pick(comparison, [("min", "accuracy", limit)])
        assert found.row.name == "best"
        assert bool(found.uncertain) is doubtful
    assert pick(comparison, [("min", "accuracy", (mean + high) / 2)]).bounds[0].doubtful(row)


def test_one_seed_leaves_a_bound_uncertain_and_a_count_certain():
    (found,) = compare(synthetic.records(METHODS, seeds=(0,)))
    picked = pick(found, [("max", "latency", "1s"), ("max", "size", "1GB")], "throughput")
    assert [bound.wanted.key for bound in picked.uncertain] == ["latency"]


def test_those_whose_intervals_meet_are_not_clearly_behind(comparison):
    found = pick(comparison, [], "throughput")
    assert found.close == []
    first, second = pick(comparison, [("max", "accuracy", 0.79)], "size").candidates[:2]
    assert first.figures["size_on_disk"].value == second.figures["size_on_disk"].value


@pytest.mark.parametrize(
    ("bounds", "by", "says"),
    [
        ([], "latancy", "by latancy: no metric is called so; did you mean `latency`"),
        ([("max", "acuracy", "1")], "quality", "max acuracy: no metric is called so; did you mean `accuracy`"),
        ([("max", "latency", "8GiB")], "quality", r"max latency: its value is a number, with s or ms .*; found '8GiB'"),
        ([("min", "accuracy", "0,7")], "quality", "min accuracy: .* as in 0.7 or 70%; found '0,7'"),
        ([("min", "accuracy", "nan")], "quality", "found 'nan'"),
        ([("min", "accuracy", "-1")], "quality", "found '-1'"),
    ],
)
def test_a_mistake_is_named_with_its_mend(comparison, bounds, by, says):
    with pytest.raises(MetricError, match=says):
        pick(comparison, bounds, by)


def test_what_nobody_measured_excludes_nobody_silently(comparison):
    found = pick(comparison, [("max", "perplexity", "3")])
    assert found.row is None
    assert len(found.unmeasured(found.bounds[0].wanted)) == 4


def test_it_is_a_function_of_the_package(tmp_path):
    folder = synthetic.write(synthetic.records(METHODS), tmp_path)
    (found,) = bench.pick(folder, max={"peak_memory": "0.5GiB"}, min={"accuracy": 0.6}, by="throughput")
    assert found.row.name == "fast"
    assert math.isclose(found.bounds[0].limit, 2**29)
