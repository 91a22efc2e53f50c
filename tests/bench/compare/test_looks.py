"""Verdicts of a run that adds seeds: at the level of all its looks, and for good."""

import numpy as np
import pytest

from bench.compare import compare, stats
from bench.compare.looks import level, looks
from tests import synthetic
from tests.synthetic import Method

RECIPES = {"full": Method("full"), "a": Method("a"), "b": Method("b")}
LOOKS = [3, 5, 8, 12, 18]


def recorded(lost, seeds=None, planned=LOOKS):
    """Records of recipes that lose so many of 400 items for each seed; `seeds` are how many each recipe has."""
    most = max(map(len, lost.values()))
    records = synthetic.records(RECIPES, seeds=range(most))
    for name in RECIPES:
        for seed in range(most):
            quality = records.nodes[f"minilm/stdlib-topics/{seed}/{name}"]["quality"]
            gone = lost.get(name, [0] * most)[seed : seed + 1]
            correct = [int((item + seed) % 4 > 0) for item in range(400)]
            places = [item for item in range(seed % 7, 400, 7) if correct[item]][: sum(gone)]
            for item in places:
                correct[item] = 0
            quality |= {"correct": correct, "metrics": {"accuracy": sum(correct) / 400}}
    (run,) = records.runs
    run["cells"] = [
        c for c in run["cells"] if c["seed"] < (seeds or {}).get(c["name"], len(lost.get(c["name"], [0] * most)))
    ]
    if planned:
        run["settle"] = {"looks": planned}
    return records


def changes(records):
    (found,) = compare.compare(records)
    return {row.name: row.changes.get("accuracy") for row in found.rows if not row.is_baseline}


def differences(lost, name, seeds):
    """What the changes are made of, by hand: seeds by items."""
    nodes = recorded(lost).nodes
    score = [
        [nodes[f"minilm/stdlib-topics/{s}/{r}"]["quality"]["correct"] for s in range(seeds)] for r in (name, "full")
    ]
    return stats.seeds_and_items(*score)


def test_there_are_five_looks_each_at_half_as_many_seeds_more():
    assert looks(3) == looks(1) == (3, 5, 8, 12, 18)
    assert looks(5) == (5, 8, 12, 18, 27)
    assert level(looks(3)) == pytest.approx(0.99)
    assert level(()) == stats.LEVEL


def test_a_verdict_takes_a_fifth_of_the_level_and_holm_over_recipes():
    lost = {"a": [9, 12, 10, 11, 10], "b": [1, 30, 2, 20, 3]}
    found = changes(recorded(lost))
    a, b = differences(lost, "a", 3), differences(lost, "b", 5)  # a is settled at the first look
    assert found["a"].interval == pytest.approx(a.interval_at(0.99))
    assert found["a"].adjusted_p == pytest.approx(5 * 2 * a.p)
    assert found["b"].adjusted_p == pytest.approx(5 * b.p)
    assert (found["a"].verdict, found["b"].verdict) == ("worse", "not settled")
    assert found["b"].settling == stats.settling(b, 0.01, 0.01, 0.99)
    plain = changes(recorded(lost, planned=None))
    five = differences(lost, "a", 5)
    assert plain["a"].adjusted_p == pytest.approx(2 * five.p)
    assert plain["a"].interval == pytest.approx(five.interval)


def test_what_is_settled_at_a_look_stays_so_whatever_comes_later():
    # The first three seeds show a loss; all eight would not.
    lost = {"a": [9, 12, 10, 0, 40, 0, 0, 0], "b": [0] * 8}
    found = changes(recorded(lost))
    assert found["a"].verdict == "worse"
    assert found["a"].value == pytest.approx(-np.mean(lost["a"][:3]) / 400)
    assert changes(recorded(lost, planned=None))["a"].verdict == "not settled"
    assert found["b"].verdict == "same"


def test_a_recipe_that_stopped_earlier_counts_for_the_others_as_it_is():
    lost = {"a": [1, 20, 11, 10, 10], "b": [0, 40, 20]}
    found = changes(recorded(lost))
    assert (found["a"].noise.seeds, found["b"].noise.seeds) == (5, 3)
    assert found["a"].adjusted_p == pytest.approx(5 * 2 * differences(lost, "a", 5).p)


def test_seeds_between_two_looks_do_not_count():
    lost = {"a": [1, 30, 2, 20, 3, 0, 0], "b": [0] * 7}
    found = changes(recorded(lost))["a"]
    assert found.noise == differences(lost, "a", 5)
    lost = {"a": [1, 30], "b": [0] * 7}
    assert changes(recorded(lost))["a"] is None


def test_the_margin_is_of_the_seeds_that_are_compared():
    records = recorded({"a": [0] * 5, "b": [0] * 3})
    assert {each.margin for each in changes(records).values()} == {0.01}
    (found,) = compare.compare(records)
    assert found.looks == tuple(LOOKS)
    assert found.seeds == (0, 1, 2, 3, 4)


def test_recipes_that_share_the_baselines_training_do_so_with_fewer_seeds_too():
    methods = {
        "full": Method("full"),
        "int8": Method("full >> int8"),
        "nf4": Method("full >> nf4"),
        "head": Method("head"),
    }
    records = synthetic.records(methods, seeds=range(5))
    (run,) = records.runs
    run["cells"] = [cell for cell in run["cells"] if cell["name"] in ("full", "head") or cell["seed"] < 3]
    (found,) = compare.compare(records)
    assert found.trained_once
    run["cells"] = [cell for cell in run["cells"] if cell["name"] in ("full", "head")]
    (found,) = compare.compare(records)
    assert not found.trained_once


def test_only_more_items_help_where_they_alone_leave_it_open():
    by_items = stats.Difference(-0.015, 0.011, 300.0, "seeds and items", 3, 0.01**2)
    by_seeds = stats.Difference(-0.015, 0.011, 3.0, "seeds and items", 3, 0.002**2)
    # 2.58 errors of 0.01 are more than 0.015, and 0.015 is more than the margin.
    assert stats.settling(by_items, 0.01, 0.01, 0.99).needs_items
    assert stats.settling(by_items, 0.01, 0.01, 0.99).seeds is None
    assert not stats.settling(by_seeds, 0.01, 0.01, 0.99).needs_items
    assert not stats.settling(by_items, 0.05, 0.01, 0.99).needs_items  # inside a wider margin
    large = stats.Difference(-0.03, 0.02, 300.0, "seeds and items", 3, 0.01**2)
    assert not stats.settling(large, 0.01, 0.01, 0.99).needs_items  # 3 errors of the items alone
