import pytest

from bench.compare.compare import compare
from reports.forest import MOST, differences, forest
from tests import synthetic
from tests.synthetic import Method


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records())
    return found


def test_points_are_the_changes_in_points_from_the_best_down(comparison):
    points = differences(comparison)["recipes"]
    rows = {row.name: row for row in comparison.rows}
    for point in points:
        change = rows[point["name"]].changes["accuracy"]
        assert point["value"] == pytest.approx(100 * change.value)
        assert point["verdict"] == change.verdict
        assert point["low"] <= point["value"] <= point["high"]
    assert [each["value"] for each in points] == sorted((each["value"] for each in points), reverse=True)
    assert {"full", "adamw, lr too high", "two GPUs"}.isdisjoint(each["name"] for each in points)


def test_each_seed_is_its_difference_from_the_baselines_same_seed(comparison):
    seeds = [each["value"] for each in differences(comparison)["seeds"] if each["name"] == "int8"]
    full, int8 = (
        next(row for row in comparison.rows if row.name == name).figures["accuracy"].by_seed
        for name in ("full", "int8")
    )
    assert seeds == pytest.approx([100 * (int8[seed] - full[seed]) for seed in (0, 1, 2)])


def test_an_interval_that_is_wider_than_the_plot_is_cut_off():
    records = synthetic.records({"full": Method("full"), "lora": Method("lora")}, seeds=(0, 1))
    (found,) = compare(records)
    (point,) = differences(found)["recipes"]
    low, high = (100 * end for end in found.rows[1].changes["accuracy"].interval)
    assert high - low > point["high"] - point["low"]


def test_the_band_is_the_margin(comparison):
    assert differences(comparison)["margin"] == [{"low": -1.0, "high": 1.0, "none": 0}]
    assert "±1 point" in forest(comparison).caption


def test_of_another_baseline_all_is_compared_with_that(comparison):
    names = {each["name"] for each in differences(comparison.against("int8"))["recipes"]}
    assert "full" in names
    assert "int8" not in names


def test_nothing_compared_is_no_plot():
    (found,) = compare(synthetic.records({"full": Method("full")}))
    assert forest(found) is None


def test_what_is_left_out_is_counted():
    methods = {"full": Method("full")} | {f"r{n}": Method(f"full(lr={n + 1})") for n in range(MOST + 3)}
    (found,) = compare(synthetic.records(methods, seeds=(0, 1), items=20))
    drawing = forest(found)
    assert len(drawing.spec["datasets"]["recipes"]) == MOST
    assert "3 more recipes are left out" in drawing.caption
