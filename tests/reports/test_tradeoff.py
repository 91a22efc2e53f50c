import math

import pytest

from bench.compare.compare import compare
from bench.metrics.registry import metrics
from reports.tradeoff import tradeoff
from tests import synthetic
from tests.synthetic import Method


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records())
    return found


@pytest.fixture(scope="module")
def drawn(comparison):
    known = {metric.name: metric for metric in comparison.metrics}
    return lambda cost: tradeoff(comparison, known[cost], known["accuracy"])


def points(drawing):
    return {point["name"]: point for point in drawing.spec["datasets"]["recipes"]}


def encoding(drawing, key):
    return next(layer["encoding"][key] for layer in drawing.spec["layer"] if "scale" in layer["encoding"].get(key, {}))


def test_points_are_the_figures_with_their_intervals(comparison, drawn):
    row = next(row for row in comparison.rows if row.name == "lora r=8")
    point = points(drawn("train_peak_bytes"))["lora r=8"]
    assert point["x"] == row.figures["train_peak_bytes"].value
    assert point["y"] == row.figures["accuracy"].value
    assert (point["y0"], point["y1"]) == row.figures["accuracy"].interval


def test_the_front_is_of_what_is_settled(comparison, drawn):
    drawing = drawn("train_peak_bytes")
    settled = {
        row.name
        for row in comparison.rows
        if row.is_baseline or (row.changes and row.changes["accuracy"].verdict != "not settled")
    }
    assert {name for name, point in points(drawing).items() if point["settled"]} == settled & points(drawing).keys()
    marked = {name for name, point in points(drawing).items() if point["front"]}
    # Of the settled ones: the cheapest, and each dearer one that is better than all cheaper ones.
    assert marked == {"full", "bf16 full", "bitfit", "head only"}
    front = drawing.spec["datasets"]["front"]
    assert [each["x"] for each in front] == sorted(each["x"] for each in front)
    assert [each["y"] for each in front] == sorted(each["y"] for each in front)


def test_where_more_is_better_the_front_runs_the_other_way(drawn):
    xs = [point["x"] for point in drawn("train_tokens_per_second").spec["datasets"]["front"]]
    assert xs == sorted(xs, reverse=True)
    assert "Best is top right" in drawn("train_tokens_per_second").caption


def test_recipes_without_a_full_result_are_not_drawn(drawn):
    assert "adamw, lr too high" not in points(drawn("train_peak_bytes"))


def test_one_seed_has_no_bars():
    (found,) = compare(synthetic.records(seeds=(0,)))
    drawing = tradeoff(found, metrics()["train_peak_bytes"], metrics()["accuracy"])
    assert not any("x0" in point or "y0" in point for point in points(drawing).values())
    assert "One seed, so no intervals." in drawing.caption


def test_a_wide_range_is_drawn_on_a_log_scale(drawn):
    assert encoding(drawn("size_on_disk"), "x")["scale"]["type"] == "log"
    assert encoding(drawn("inference_peak_bytes"), "x")["scale"]["type"] == "linear"


def test_labels_cover_neither_points_nor_each_other(drawn):
    for cost in ("train_tokens_per_second", "train_peak_bytes", "latency_1x16", "size_on_disk"):
        drawing, boxes = drawn(cost), []
        for point in points(drawing).values():
            x, y = (_place(point[key], encoding(drawing, key)["scale"]) for key in "xy")
            x, y = x * 460, (1 - y) * 290
            wide = 6 * len(point["label"])
            left = {"left": 0, "center": -wide / 2, "right": -wide}[point["align"]]
            if point["label"]:
                boxes.append(
                    (x + point["dx"] + left, y + point["dy"] - 6, x + point["dx"] + left + wide, y + point["dy"] + 6)
                )
        assert len(boxes) >= 6
        for n, a in enumerate(boxes):
            for b in boxes[n + 1 :]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def _place(value, scale):
    low, high = scale["domain"]
    if scale["type"] == "log":
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def test_ticks_are_labelled_in_the_units_that_metrics_spell(drawn):
    axis = encoding(drawn("train_peak_bytes"), "x")["axis"]
    assert "400 MB" in axis["labelExpr"]
    assert len(axis["values"]) >= 3


def test_equal_values_still_have_an_axis():
    records = synthetic.records({"a": Method("full"), "b": Method("lora")}, noise=0.0, seeds=(0,))
    for node in records.nodes.values():
        node["quality"] = {"metrics": {"accuracy": 0.0}, "correct": None}
        node["size"]["bytes"] = 1000
    (found,) = compare(records)
    for cost in found.costs:
        drawing = tradeoff(found, cost, metrics()["accuracy"])
        for axis in "xy":
            low, high = encoding(drawing, axis)["scale"]["domain"]
            assert low < high
