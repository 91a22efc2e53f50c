import json
import math

import pytest

from bench.compare.compare import compare
from bench.metrics.registry import metrics
from reports import curves, figures
from tests import synthetic
from tests.synthetic import Method


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records())
    return found


@pytest.fixture(scope="module")
def drawings(comparison):
    return {drawing.title: drawing for drawing in figures.drawings(comparison)}


def points(drawing):
    return {point["name"]: point for point in drawing.spec["datasets"]["recipes"]}


def test_quality_is_drawn_against_each_cost_and_the_loss_by_step(drawings):
    assert list(drawings) == [
        "Accuracy and training throughput",
        "Accuracy and training memory",
        "Accuracy and latency 1×16",
        "Accuracy and inference memory",
        "Accuracy and size on disk",
        "Training loss",
    ]


def test_every_figure_keeps_to_the_schema_and_draws(drawings):
    import altair
    import vl_convert

    for drawing in drawings.values():
        altair.LayerChart.from_dict(dict(drawing.spec))
        svg = vl_convert.vegalite_to_svg(json.dumps({**drawing.spec, "width": 460}))
        assert "qlora" in svg
        assert "NaN" not in svg
        assert "undefined" not in svg


def test_points_are_the_figures_with_their_intervals(comparison, drawings):
    row = next(row for row in comparison.rows if row.name == "lora r=8")
    point = points(drawings["Accuracy and training memory"])["lora r=8"]
    assert point["x"] == row.figures["train_peak_bytes"].value
    assert point["y"] == row.figures["accuracy"].value
    assert (point["y0"], point["y1"]) == row.figures["accuracy"].interval


def test_the_front_is_marked_and_drawn(drawings):
    drawing = drawings["Accuracy and training memory"]
    marked = {name for name, point in points(drawing).items() if point["front"] == "yes"}
    assert "qlora" in marked
    assert "head only" not in marked
    assert len(drawing.spec["datasets"]["front"]) == len(marked)
    # Cheapest first, and each next one better.
    assert [p["x"] for p in drawing.spec["datasets"]["front"]] == sorted(
        p["x"] for p in drawing.spec["datasets"]["front"]
    )
    assert [p["y"] for p in drawing.spec["datasets"]["front"]] == sorted(
        p["y"] for p in drawing.spec["datasets"]["front"]
    )


def test_where_more_is_better_the_front_runs_the_other_way(drawings):
    xs = [point["x"] for point in drawings["Accuracy and training throughput"].spec["datasets"]["front"]]
    assert xs == sorted(xs, reverse=True)
    assert "Best is top right" in drawings["Accuracy and training throughput"].caption


def test_recipes_without_a_full_result_are_not_drawn(drawings):
    assert "adamw, lr too high" not in points(drawings["Accuracy and training memory"])


def test_one_seed_has_no_bars():
    (found,) = compare(synthetic.records(seeds=(0,)))
    drawing = figures.scatter(found, metrics()["train_peak_bytes"], metrics()["accuracy"])
    assert not any("x0" in point or "y0" in point for point in points(drawing).values())
    assert "One seed, so no intervals." in drawing.caption


def test_a_wide_range_is_drawn_on_a_log_scale(drawings):
    def scale(title):
        return drawings[title].spec["layer"][0]["encoding"]["x"]["scale"]["type"]

    assert scale("Accuracy and size on disk") == "log"
    assert scale("Accuracy and inference memory") == "linear"


def test_labels_cover_neither_points_nor_each_other(drawings):
    for drawing in list(drawings.values())[:5]:
        boxes = []
        scales = drawing.spec["layer"][0]["encoding"]
        for point in points(drawing).values():
            x, y = (_place(point[key], scales[key]["scale"]) for key in "xy")
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


def test_ticks_are_labelled_in_the_units_that_metrics_spell(drawings):
    axis = drawings["Accuracy and training memory"].spec["layer"][0]["encoding"]["x"]["axis"]
    assert "400 MB" in axis["labelExpr"]
    assert len(axis["values"]) >= 3


def test_recipes_that_share_their_training_share_a_curve(drawings):
    names = {point["name"] for point in drawings["Training loss"].spec["datasets"]["means"]}
    assert "full (+2 that share it)" in names
    assert "int8" not in names


def test_a_curve_is_the_mean_over_seeds():
    records = synthetic.records({"full": Method("full")}, seeds=(0, 1))
    for seed in (0, 1):
        records.nodes[f"minilm/stdlib-topics/{seed}/full"]["training"]["losses"] = [2.0 + seed, 1.0 + seed, math.nan]
    (found,) = compare(records)
    spec = figures.losses(found).spec
    assert [(p["step"], p["loss"]) for p in spec["datasets"]["means"]] == [(1.0, 2.5), (2.0, 1.5)]
    assert len(spec["datasets"]["seeds"]) == 4


def test_long_curves_are_thinned_by_means():
    thinned = curves._thinned([float(i) for i in range(1, 1201)])
    assert len(thinned) <= 60
    assert all(step == pytest.approx(loss) for step, loss in thinned)


def test_equal_values_still_have_an_axis():
    records = synthetic.records({"a": Method("full"), "b": Method("lora")}, noise=0.0, seeds=(0,))
    for node in records.nodes.values():
        node["quality"] = {"metrics": {"accuracy": 0.0}, "correct": None}
        node["size"]["bytes"] = 1000
    (found,) = compare(records)
    for drawing in figures.drawings(found)[:-1]:
        for axis in "xy":
            low, high = drawing.spec["layer"][0]["encoding"][axis]["scale"]["domain"]
            assert low < high
