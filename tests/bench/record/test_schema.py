"""The typed parts of a record: what they hold, what they keep, how two are put together."""

import json
from pathlib import Path

import pytest

from bench.record import format, schema
from bench.record.line import parsed
from bench.record.reading import read
from bench.record.schema import Contention, Inference, Trust
from bench.record.store import Store
from tests import synthetic


def node(**more):
    return {"schema": schema.SCHEMA, "kind": "node", "id": "n1", "run": "r1", "status": "ok", **more}


def test_the_page_is_what_the_schema_gives():
    page = Path(__file__).parents[3] / "docs" / "record-format.md"
    made = "python -m bench.record.format > docs/record-format.md"
    assert page.read_text(encoding="utf-8") == format.page(), f"make it anew: {made}"


def test_the_json_schema_knows_the_kinds_of_line():
    lines = format.json_schema()["$defs"]
    assert [lines[name]["properties"]["kind"]["const"] for name in ("Run", "Node", "End")] == ["run", "node", "end"]
    assert "schema" in lines["Node"]["required"]
    assert lines["Node"]["properties"]["status"]["enum"] == list(schema.STATUSES)


def test_all_fields_say_what_they_are():
    for name, part in format.json_schema()["$defs"].items():
        assert part["description"]
        assert all(field["description"] for field in part["properties"].values()), name


def test_parts_are_attributes():
    found = schema.line(node(training={"step_seconds": [0.5, 1], "tokens": [1, 2], "samples": [1, 1], "warmup": 1}))
    assert found.training.step_seconds == [0.5, 1.0]
    assert found.training.losses is None
    assert found.quality is None
    assert found.status == "ok"


def test_unknown_fields_are_kept():
    whole = node(new={"a": 1}, quality={"metrics": {"accuracy": 0.5}, "newer": [1]})
    found = schema.line(whole)
    assert found == whole
    assert found["quality"]["newer"] == [1]


def test_unknown_fields_are_kept_from_file_to_file(tmp_path):
    Store(tmp_path / "a").append(node(new={"a": 1}, size={"bytes": 3, "newer": "x"}))
    found = read(tmp_path / "a").nodes["n1"]
    Store(tmp_path / "b").append(found)
    assert read(tmp_path / "b").nodes["n1"] == found


def test_what_a_run_writes_fits():
    found = synthetic.compressed({"int8": 0.5})
    for whole in (*found.runs, *found.nodes.values()):
        schema.line({"schema": schema.SCHEMA, **whole})


def test_an_older_record_is_read_as_the_newest():
    latency = {"batch": 1, "length": 2, "clock": "wall", "values": [1.0], "reference": {"values": [2.0]}}
    found = schema.line(parsed(json.dumps(node(schema=1, alone="n0", latency=[latency])).encode()))
    assert found["schema"] == schema.SCHEMA
    assert found.latency[0].uncompressed.values == [2.0]
    assert found.single_process == "n0"
    run = {"schema": 1, "kind": "run", "run": "r", "title": "t", "cells": [], "reference": "full"}
    assert schema.line(parsed(json.dumps(run).encode())).baseline == "full"


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"step_seconds": [1.0]}, "training.tokens: field required"),
        ({"step_seconds": [1.0], "tokens": [], "samples": [], "warmup": 0}, "are of different lengths"),
        (
            {"step_seconds": [1.0, 1.0], "tokens": [1, 1], "samples": [1, 1], "warmup": 0, "resumed": [2]},
            "resumed are not numbers of steps",
        ),
        ({"step_seconds": [-1.0], "tokens": [1], "samples": [1], "warmup": 0}, "training.step_seconds.0: input should"),
        ({"step_seconds": "x", "tokens": [1], "samples": [1], "warmup": 0}, "training.step_seconds: input should"),
    ],
)
def test_damage_is_named_by_its_place(training, says):
    with pytest.raises(ValueError, match=says):
        schema.line(node(training=training))


def test_inference_of_two_processes_is_the_most_of_either():
    ours, theirs = Inference(peak_bytes=5, load_peak_bytes=None), Inference(peak_bytes=4, load_peak_bytes=3, other=7)
    assert ours.merged(theirs).written() == {"peak_bytes": 5.0, "load_peak_bytes": 3.0, "other": 7}


def test_what_one_process_says_against_a_timing_stands():
    busy, quiet = Contention(contended=True, reason="busy", load=9.0), Contention(contended=False, load=1.0)
    for ours, theirs in ((busy, quiet), (quiet, busy)):
        merged = Trust(latency=ours).merged(Trust(latency=theirs, training=quiet))
        assert merged.written()["latency"] == {"contended": True, "reason": "busy", "load": 9.0}
        assert merged.training.against is None
        assert merged.latency.against == "busy"


def test_what_ran_beside_another_stage_is_contended():
    crowded = Trust(training=Contention(reason="hot", contended=True), latency=Contention()).crowded()
    assert crowded.training.against == "hot; another stage ran beside it"
    assert crowded.latency.against == "another stage ran beside it"


def test_steady_seconds_are_those_after_each_warm_up():
    steps = {"step_seconds": [9.0, 1.0, 2.0, 9.0, 3.0], "tokens": [1] * 5, "samples": [1] * 5, "warmup": 1}
    assert schema.line(node(training={**steps, "resumed": [3]})).training.steady_seconds == [1.0, 2.0, 3.0]
    assert schema.line(node(training=steps)).training.steady_seconds == [1.0, 2.0, 9.0, 3.0]
