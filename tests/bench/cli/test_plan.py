"""``methodbench plan``."""

import json

from tests.command import methodbench


def test_plan_draws_the_tree_and_says_why_not(suite, tmp_path):
    text = methodbench("plan", suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nbad = "merge"'))
    assert "full  full  to run" in text
    assert "└── torch_int8_dynamic  int8  to run" in text
    assert "2 stages (3 without sharing), 0 recorded, 2 to run" in text
    assert "\ndata: 120 texts read; " in text
    assert "refused  bad: merge: there is no adapter to fold" in methodbench(
        "plan", tmp_path / "suite.toml", errors=True
    )


def test_json_has_what_the_tree_shows(suite):
    file = suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nbad = "merge"')
    plan = json.loads(methodbench("plan", file, "--json"))
    train, compress = plan["stages"]
    assert (train["stage"], train["ends"], train["state"], train["parent"]) == ("full", ["full"], "new", None)
    assert (compress["recipe"], compress["ends"]) == ("full >> torch_int8_dynamic", ["int8"])
    assert compress["parent"] == train["id"]
    (refused,) = plan["refused"]
    assert (refused["name"], refused["seed"]) == ("bad", 0)
    assert refused["reasons"][0].startswith("merge: there is no adapter")
    assert plan["data"]["data"]["read"] == 120
    assert json.loads(methodbench("plan", file, "--json", "--only", "int8"))["refused"] == []


def test_plan_counts_in_words_that_fit(suite):
    text = methodbench("plan", suite('full = "full"'))
    assert "1 stage (1 without sharing), 0 recorded, 1 to run" in text
    assert ", seed 0\n" in text
    assert methodbench("plan", suite('bad = "merge"'), status=2).startswith("refused  bad: merge: there is no adapter")
