import json
import math

import vl_convert

from bench.compare.profile import Profile
from bench.metrics.registry import metric
from reports import profiles

RATIOS = {"x": (1.0, 2.0), "y": (1.0, 1.5), "z": (math.inf, math.inf)}
FOUND = Profile(metric("train_peak_bytes"), ("m · a", "m · b"), RATIOS)


def test_a_line_rises_where_the_profile_does():
    points = profiles.drawing(FOUND).spec["datasets"]["steps"]
    assert [(each["times"], each["share"]) for each in points if each["name"] == "x"] == [
        (1, 0.5),
        (2, 1.0),
        (2.2, 1.0),
    ]
    assert [(each["times"], each["share"]) for each in points if each["name"] == "y"] == [
        (1, 0.5),
        (1.5, 1.0),
        (2.2, 1.0),
    ]


def test_who_did_no_task_has_no_line_and_is_last_in_order():
    assert profiles.best(FOUND) == ["y", "x", "z"]
    assert {each["name"] for each in profiles.drawing(FOUND).spec["datasets"]["steps"]} == {"x", "y"}


def test_it_draws_and_too_many_lines_are_left_out():
    many = Profile(FOUND.metric, FOUND.tasks, {f"r{number}": (1.0 + number, 2.0 + number) for number in range(30)})
    drawing = profiles.drawing(many)
    assert "10 more recipes are left out" in drawing.caption
    svg = vl_convert.vegalite_to_svg(json.dumps(drawing.spec))
    assert "r19" in svg
    assert "NaN" not in svg
