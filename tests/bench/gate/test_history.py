"""Change points: a planted one is found at its place, and noise alone has few. Courses: what they hold and what they miss."""

import copy
import math
import random

import pytest

from bench.gate.history import FEWEST, RATE, change_points, history
from bench.metrics.metric import MetricError
from bench.record.errors import RecordError
from tests import synthetic
from tests.synthetic import Method


def noise(count, seed, draw="gauss"):
    source = random.Random(seed)
    if draw == "gauss":
        return [source.gauss(0, 1) for _ in range(count)]
    return [source.gauss(0, 1) / math.sqrt(source.expovariate(1)) for _ in range(count)]  # Student's t, freedom 2


@pytest.mark.parametrize("at", [4, 15, 26])
def test_a_step_is_found_at_its_place(at):
    values = [100 + each + (10 if place >= at else 0) for place, each in enumerate(noise(30, at))]
    (found,) = change_points(values)
    assert found.at == at
    assert found.before == pytest.approx(sum(values[:at]) / at)
    assert found.after == pytest.approx(sum(values[at:]) / (30 - at))
    assert found.p_value <= RATE


def test_each_of_several_steps_is_found():
    values = [each + {0: 100, 1: 110, 2: 103}[place // 12] for place, each in enumerate(noise(36, 1))]
    found = change_points(values)
    assert [each.at for each in found] == [12, 24]
    assert [round(each.before) for each in found] == [100, 110]
    assert [round(each.after) for each in found] == [110, 103]


@pytest.mark.parametrize("draw", ["gauss", "heavy tails"])
def test_noise_alone_has_no_more_change_points_than_is_said(draw):
    trials = 300
    alarms = sum(bool(change_points(noise(12, trial, draw))) for trial in range(trials))
    # Of 300 with a rate of 1 %, more than 9 happen in 1 of 1,000 tests.
    assert alarms <= 9


def test_the_fewest_values_are_those_that_can_show_a_change():
    step = [1.0, 1.1, 0.9, 1.05, 0.95, 2.0, 2.1, 1.9, 2.05, 1.95]
    assert len(step) == FEWEST
    (found,) = change_points(step)
    assert found.at == 5
    assert found.p_value == pytest.approx(2 / math.comb(10, 5), abs=0.003)
    assert change_points(step[1:]) == []


def test_one_outlier_and_equal_values_are_no_change():
    assert change_points([1.0] * 20) == []
    assert change_points([*noise(15, 3), 30.0, *noise(14, 4)]) == []


@pytest.fixture
def folders(tmp_path):
    def write(count, change=lambda at, node: None):
        base = synthetic.records({"full": Method("full"), "lora": Method("lora(r=8)")}, items=20)
        for at in range(count):
            found = copy.deepcopy(base)
            environment = copy.deepcopy(synthetic.ENVIRONMENT)
            environment["git"] = {"commit": f"{at:040d}", "dirty": at == 1}
            found.runs[0] |= {"started": f"2026-11-{at + 1:02d}T20:00:00+00:00", "environment": environment}
            for node in found.nodes.values():
                node["environment"] = copy.deepcopy(environment)
                change(at, node)
            synthetic.write(found, tmp_path / f"run-{at}")
        return [tmp_path / f"run-{at}" for at in range(count)]

    return write


def size(at, node):
    node["size"]["bytes"] = 1000 + at % 2 + (500 if at >= 7 and node["stage"] == "full" else 0)


def test_points_are_in_the_order_of_their_runs_with_their_commits(folders):
    (course,) = history(folders(3, size)[::-1], ["size_on_disk"], "full").courses
    assert [point.value for point in course.points] == [1000, 1001, 1000]
    assert [point.commit for point in course.points] == ["0" * 40, f"{1:040d}+changes", f"{2:040d}"]
    assert course.points[1].name == "0000000000+"
    assert course.reason == "3 values: no change point is looked for in fewer than 10"


def test_a_change_is_found_in_its_recipe_alone(folders):
    found = history(folders(14, size), ["size_on_disk"])
    full, lora = found.courses
    assert ([each.at for each in full.changes], lora.changes) == ([7], ())
    assert full.changes[0].after - full.changes[0].before == pytest.approx(500, abs=1)


def test_a_missing_value_has_its_reason_and_moves_no_change_point(folders):
    def change(at, node):
        size(at, node)
        if at == 3 and node["stage"] == "full":
            node |= {"status": "oom", "reason": "4 GB"}
        if at == 4:
            node["size"] = None

    (course,) = history(folders(16, change), ["size_on_disk"], "full").courses
    assert [(point.value, point.reason) for point in course.points[3:5]] == [
        (None, "the recipe is oom: 4 GB"),
        (None, "it was not measured"),
    ]
    assert [each.at for each in course.changes] == [7]


def test_without_a_metric_those_of_the_short_table_are_shown(folders):
    found = history(folders(2), recipe="l*")
    assert {course.recipe for course in found.courses} == {"lora"}
    assert {"accuracy", "train_tokens_per_second", "size_on_disk"} <= {course.metric for course in found.courses}


def test_another_machine_is_noted(folders):
    def change(at, node):
        node["environment"]["machine"]["cpu"] = "Old" if at < 2 else "New"

    paths = folders(4, change)
    assert history(paths).notes == (f"cpu changed from Old to New between {paths[1]} and {paths[2]}",)


def test_a_point_without_a_commit_has_the_name_of_its_folder(tmp_path):
    records = synthetic.records({"full": Method("full")})
    records.runs[0]["environment"] = None
    (course,) = history([synthetic.write(records, tmp_path / "tuesday")], ["size_on_disk"]).courses
    assert [(point.commit, point.name) for point in course.points] == [("", "tuesday")]


def test_what_is_not_there_is_refused(folders, tmp_path):
    paths = folders(1)
    with pytest.raises(MetricError, match="no metric is called `acuracy`; did you mean `accuracy`"):
        history(paths, ["acuracy"])
    with pytest.raises(RecordError, match="'x\\*' matches no recipe; there are: full, lora"):
        history(paths, recipe="x*")
    with pytest.raises(RecordError, match="nowhere: no such folder"):
        history([*paths, tmp_path / "nowhere"])
