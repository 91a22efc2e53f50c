import csv
import dataclasses
import io
import json

import pytest

import reports
from bench.compare.compare import compare
from reports import render_comparisons
from tests import synthetic
from tests.synthetic import Method


def to_json(found):
    return render_comparisons(found, "json")


def to_csv(found):
    return render_comparisons(found, "csv")


def recipes(**options):
    found = json.loads(to_json(compare(synthetic.records(**options))))
    return {recipe["name"]: recipe for recipe in found["recipes"]}


def test_json_is_one_object_with_the_recipes_of_all_comparisons():
    subjects = [("minilm", "a"), ("minilm", "b")]
    found = json.loads(to_json(compare(synthetic.records(subjects=subjects))))
    assert len(found["recipes"]) == 30
    assert {(r["model"], r["task"]) for r in found["recipes"]} == set(subjects)
    assert [c["task"] for c in found["comparisons"]] == ["a", "b"]
    assert found["comparisons"][0]["baseline"] == "full"
    assert found["comparisons"][0]["headline"]


def test_a_metric_has_its_value_unit_direction_and_interval():
    recipe = recipes()["nf4"]
    latency = recipe["metrics"]["latency_1x16"]
    assert (latency["unit"], latency["better"], latency["verdict"]) == ("s", "lower", "worse")
    low, high = latency["interval"]
    assert 0.015 < low < latency["value"] < high < 0.03
    assert latency["ratio_interval"][0] < latency["ratio"] < latency["ratio_interval"][1]
    accuracy = recipe["metrics"]["accuracy"]
    assert accuracy["difference"] < 0
    assert "ratio" not in accuracy
    assert 0 < accuracy["p"] < accuracy["adjusted_p"] <= 1
    assert (accuracy["detectable"], accuracy["seeds_to_settle"]) == (None, None)
    unsettled = recipes()["half FFN"]["metrics"]["accuracy"]
    assert (unsettled["verdict"], unsettled["seeds_to_settle"]) == ("not settled", 6)
    assert 0.05 < unsettled["detectable"] < 0.1
    assert (latency["p"], latency["adjusted_p"], latency["margin"]) == (None, None, 0.02)
    assert list(accuracy["by_seed"]) == ["0", "1", "2"]


def test_each_process_has_what_it_held():
    found = json.loads(to_json(compare(synthetic.divided())))["recipes"]
    assert [each["weight_bytes"] for each in found[1]["processes"]] == [3_000_000, 2_000_000]
    assert found[0]["processes"] == []


def test_without_an_interval_it_is_null():
    latency = recipes(seeds=(0,))["nf4"]["metrics"]["latency_1x16"]
    assert (latency["interval"], latency["ratio_interval"], latency["verdict"]) == (None, None, "not settled")


def test_what_failed_is_there_with_its_reason():
    found = recipes()
    assert found["two GPUs"]["status"] == "refused"
    assert "this machine has 0" in found["two GPUs"]["reasons"][0]
    assert found["ensemble of 8"]["metrics"] == {}
    assert (found["adamw, lr too high"]["seeds"], found["adamw, lr too high"]["seeds_ok"]) == ([0, 1, 2], [0, 2])


def test_contention_is_said():
    found = recipes(contended=("ia3",))
    assert found["ia3"]["metrics"]["latency_1x16"]["contended"] == "CPU time was 61 % of wall time"
    assert found["full"]["metrics"]["latency_1x16"]["contended"] is None


def test_empty_json_is_still_an_object():
    assert json.loads(to_json([])) == {"schema": 2, "comparisons": [], "recipes": []}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r+1", " =1", "＝1"])
def test_no_cell_of_csv_is_a_formula(name):
    (comparison,) = compare(synthetic.records())
    renamed = dataclasses.replace(comparison, title=name)
    table = list(csv.DictReader(io.StringIO(to_csv([renamed]), newline="")))
    assert {row["title"] for row in table} == {f"'{name}"}
    assert any(row["value"].startswith("-") for row in table) or min(float(row["value"] or 0) for row in table) >= 0


def test_csv_says_the_same_as_json():
    found = compare(synthetic.records())
    table = list(csv.DictReader(io.StringIO(to_csv(found), newline="")))
    by_key = {(row["name"], row["metric"]): row for row in table}
    for recipe in json.loads(to_json(found))["recipes"]:
        for name, metric in recipe["metrics"].items():
            row = by_key[recipe["name"], name]
            assert float(row["value"]) == metric["value"]
            assert row["verdict"] == metric.get("verdict", "")
            if metric["interval"]:
                assert [float(row["low"]), float(row["high"])] == metric["interval"]
    assert by_key["two GPUs", ""]["status"] == "refused"
    assert not any(None in row or None in row.values() for row in table)


def test_what_quality_is_to_be_seen_beside_is_in_json():
    (about,) = json.loads(to_json(compare(synthetic.referenced())))["comparisons"]
    chance, untrained = about["references"]
    assert chance == {
        "name": "chance",
        "about": "A guess: the most frequent class.",
        "metrics": {"accuracy": 0.1234, "macro_f1": 0.02},
    }
    assert untrained["name"] == "untrained"
    assert untrained["metrics"] == {"accuracy": pytest.approx(0.12), "macro_f1": pytest.approx(0.05)}


def test_parquet_is_the_long_table_with_its_texts_as_they_were(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    methods = {**synthetic.METHODS, "=1+1": Method("bitfit(lr=0.1)", 0.7)}
    folder = synthetic.write(synthetic.records(methods), tmp_path)
    (file,) = reports.write(folder, ["parquet"], tmp_path)
    found = parquet.read_table(file).to_pylist()
    for line, row in zip(found, csv.DictReader(io.StringIO(reports.render(folder, "csv"), newline="")), strict=True):
        for key, value in line.items():
            assert row[key] == ("" if value is None else f"'{value}" if str(value).startswith("=") else str(value))
    assert {line["name"] for line in found} == set(methods)
    assert isinstance(found[0]["value"], float)
