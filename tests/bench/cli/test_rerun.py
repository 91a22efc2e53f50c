"""``methodbench rerun``."""

import json

from tests.command import methodbench


def test_one_recipe_runs_again_as_its_suite_has_it(suite, tmp_path):
    file, out = suite('full = "full"\n"a[1]" = "full >> torch_int8_dynamic"\na1 = "head"'), tmp_path / "out"
    methodbench("run", file, "--out", out, "--steps", "2")
    file.unlink()  # the run's record has all of it, with what the command line said instead
    methodbench("rerun", "out", "a[1]", "-q", cwd=tmp_path)
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    ran = [line["recipe"] for line in lines if line["kind"] == "node"]
    assert ran[:3] == ["full", "full >> torch_int8_dynamic", "head"]
    assert ran[3:] == ["full", "full >> torch_int8_dynamic"]
    first, again = (line for line in lines if line["kind"] == "run")
    assert first["cells"] == again["cells"]
    assert again["suite"]["budget"]["steps"] == 2
    report = json.loads(methodbench("report", out, "--format", "json"))
    assert {entry["name"]: entry["status"] for entry in report["recipes"]} == dict.fromkeys(
        ("full", "a[1]", "a1"), "ok"
    )

    assert "has no recipe `fulll`; did you mean `full`?" in methodbench("rerun", out, "fulll", status=2)
    assert "nowhere" in methodbench("rerun", tmp_path / "nowhere", "full", status=2)


def test_a_run_without_its_suite_says_what_to_do(tmp_path):
    run = {"schema": 2, "kind": "run", "run": "r", "title": "t", "baseline": "full", "cells": []}
    (tmp_path / "records.jsonl").write_text(json.dumps(run) + "\n")
    assert "run the suite with --only 'full' --fresh" in methodbench("rerun", tmp_path, "full", status=2)
