import pytest

from bench.compare.compare import compare
from reports import costs
from tests import synthetic
from tests.synthetic import Method


def parts(drawing, name):
    return {each["part"]: each["value"] for each in drawing.spec["datasets"]["parts"] if each["name"] == name}


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records())
    return found


def test_memory_is_what_is_counted_beside_the_peak(comparison):
    drawing = costs.memory(comparison)
    assert parts(drawing, "full") == pytest.approx(
        {"weights": 90.8, "gradients": 90.8, "optimizer state": 181.6, "saved activations": 210.0}
    )
    peak = next(each["value"] for each in drawing.spec["datasets"]["peaks"] if each["name"] == "full")
    full = next(row for row in comparison.rows if row.name == "full")
    assert peak == pytest.approx(full.figures["train_peak_bytes"].value / 1e6)


def test_a_training_that_several_recipes_share_is_shown_once(comparison):
    names = {each["name"] for each in costs.memory(comparison).spec["datasets"]["parts"]}
    assert "full" in names
    assert "int8" not in names


def test_time_adds_up_to_all_of_it():
    records = synthetic.records({"full": Method("full")}, seeds=(0, 1))
    for seed, node in enumerate(records.nodes.values()):
        node["seconds"] = {"train": 10.0 + 2 * seed, "evaluate": 3.0, "process": 15.0, "total": 20.0}
    (found,) = compare(records)
    assert parts(costs.time(found), "full") == pytest.approx(
        {"train": 11.0, "score the test items": 3.0, "all else": 6.0}
    )


def test_the_time_of_a_chain_is_that_of_all_its_stages(comparison):
    assert sum(parts(costs.time(comparison), "half FFN").values()) == pytest.approx(90.0)


def test_what_was_not_recorded_is_not_drawn():
    records = synthetic.records({"full": Method("full")})
    for node in records.nodes.values():
        del node["seconds"]
        node["training"] = node["weight_bytes"] = None
    (found,) = compare(records)
    assert costs.memory(found) is costs.time(found) is None
