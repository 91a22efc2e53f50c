"""Performance profiles, against ratios that were computed by hand."""

import math

import pytest

from bench.compare.compare import compare
from bench.compare.profile import Subject, costs, profiles
from bench.metrics.registry import metric
from tests import synthetic
from tests.synthetic import Method

MEMORY, SPEED = metric("train_peak_bytes"), metric("train_tokens_per_second")


def subject(task, memory, started="2026-11-22", recipes=None):
    return Subject(
        "m", task, started, recipes or {name: name for name in memory}, {MEMORY.name: MEMORY}, {MEMORY.name: memory}
    )


def test_a_profile_is_the_share_of_tasks_within_a_ratio_of_the_cheapest():
    (found,) = profiles(
        [
            subject("a", {"x": 2.0, "y": 1.0, "z": math.inf}),
            subject("b", {"x": 3.0, "y": 6.0, "z": 4.5}),
            subject("c", {"x": 1.0, "y": 4.0, "z": 1.0}),
            subject("d", {"x": math.inf, "y": math.inf, "z": math.inf}),
        ]
    )
    # By hand: x is 2, 1 and 1 times the cheapest, y is 1, 2 and 4, z nothing, 1.5 and 1; nobody did d.
    inf = math.inf
    assert found.ratios == {"x": (1, 1, 2, inf), "y": (1, 2, 4, inf), "z": (1, 1.5, inf, inf)}
    assert found.tasks == ("m · a", "m · b", "m · c", "m · d")
    assert [found.share("x", tau) for tau in (0.9, 1, 1.9, 2, 100)] == [0, 0.5, 0.5, 0.75, 0.75]
    assert [found.share("y", tau) for tau in (1, 2, 4)] == [0.25, 0.5, 0.75]
    assert [found.share("z", tau) for tau in (1, 1.5)] == [0.25, 0.5]


def test_a_profile_wants_two_tasks_of_the_same_recipes():
    one, other = subject("a", {"x": 1.0, "y": 2.0}), subject("b", {"x": 1.0, "z": 2.0})
    assert profiles([one]) == []
    assert profiles([one, other]) == []
    assert profiles([one, subject("b", {"x": 1.0, "y": 2.0}, recipes={"x": "x", "y": "another"})]) == []
    assert len(profiles([one, other, subject("c", {"x": 1.0, "y": 1.0})])) == 1


def test_of_several_runs_of_a_task_the_latest_counts():
    old, new = subject("a", {"x": 1.0, "y": 9.0}, "2026-11-01"), subject("a", {"x": 1.0, "y": 2.0}, "2026-11-02")
    assert profiles([old, new]) == []
    (found,) = profiles([new, old, subject("b", {"x": 1.0, "y": 3.0})])
    assert found.ratios["y"] == (2.0, 3.0)


def test_where_nobody_did_a_task_there_is_no_profile():
    assert profiles([subject(task, {"x": math.inf}) for task in "ab"]) == []


def test_a_cost_is_infinite_where_a_recipe_failed_or_is_worse():
    methods = {
        "full": Method("full", 0.75),
        "fast": Method("bitfit", 0.75, step=0.5),
        "bad": Method("ia3", 0.4, step=0.1),
        "lost": Method("head", status="oom", reason="needed more"),
    }
    (found,) = compare(synthetic.records(methods, items=2000))
    cost = costs(found, SPEED)
    assert cost["full"] == pytest.approx(1 / found.rows[0].figures[SPEED.name].value)
    assert cost["fast"] == pytest.approx(cost["full"] / 2, rel=0.1)
    assert (cost["bad"], cost["lost"]) == (math.inf, math.inf)
    assert costs(found, MEMORY)["full"] == found.rows[0].figures[MEMORY.name].value


def test_the_costs_of_a_comparison_are_those_of_its_short_table():
    subjects = [Subject.of(each) for each in compare(synthetic.records(subjects=[("m", "a"), ("m", "b")]))]
    found = profiles(subjects)
    assert [each.metric.name for each in found] == [
        "train_tokens_per_second", "train_peak_bytes", "latency_1x16", "inference_peak_bytes", "size_on_disk"
    ]  # fmt: skip
    assert all(ratios[0] >= 1 and len(ratios) == 2 for each in found for ratios in each.ratios.values())
