"""Two results folders: what makes a comparison of them no verdict, and what does not."""

import copy
import json

import pytest

from bench.gate.stored import ADVISORY, compare
from bench.gate.verdict import read
from bench.record.errors import RecordError
from bench.suite.gate import GateTable
from tests import synthetic
from tests.synthetic import Method

TABLE = GateTable.model_validate({"throughput": "3%", "size": "1%", "quality": "1 point"})


@pytest.fixture
def folders(tmp_path):
    def write(change=lambda node: None, machine=None, **options):
        base = synthetic.records({"full": Method("full")}, **options)
        head = copy.deepcopy(base)
        for side in (base, head):
            for node in side.nodes.values():
                node |= {"budget": {"steps": 60}, "measure": {"latency_samples": 15}}
                node |= {"task_fingerprint": "abc", "model_fingerprint": "def"}
        for node in head.nodes.values():
            change(node)
            node["environment"]["machine"] |= machine or {}
        return synthetic.write(base, tmp_path / "base"), synthetic.write(head, tmp_path / "head")

    return write


def test_a_folder_against_itself_passes_and_says_that_it_is_advice(folders):
    base, _ = folders()
    found = compare(base, base, TABLE)
    assert (found.outcome, found.doubts) == ("pass", ())
    assert {check.metric for check in found.checks} == {"accuracy", "train_tokens_per_second", "size_on_disk"}
    assert ADVISORY in found.notes
    assert (found.base.label, found.base.commit, found.base.python) == (str(base), "ad80456", "3.11.7")


def test_a_verdict_is_written_and_read(folders, tmp_path):
    found = compare(*folders(lambda node: node["size"].update(bytes=10**9)), TABLE)
    assert found.outcome == "regression"
    found.write(tmp_path / "gate.json")
    assert read(tmp_path / "gate.json") == found
    assert json.loads(found.json())["checks"][0]["recipe"] == "full"


@pytest.mark.parametrize(
    ("change", "machine", "doubt"),
    [
        (None, {"cpu": "Another"}, "cpu: Intel Xeon Platinum 8481C in the base, Another in the head"),
        (None, {"device": "cuda"}, "device: cpu in the base, cuda in the head"),
        (None, {"versions": {"torch": "2.14.0"}}, "torch: 2.13.0+cpu in the base, 2.14.0 in the head"),
        (
            {"task_fingerprint": "xyz"},
            {},
            "the fingerprint of the task stdlib-topics: abc in the base, xyz in the head",
        ),
        ({"model_fingerprint": "xyz"}, {}, "the fingerprint of the model minilm: def in the base, xyz in the head"),
        ({"budget": {"steps": 20}}, {}, "budget.steps: 60 in the base, 20 in the head"),
        ({"measure": {"latency_samples": 3}}, {}, "measure.latency_samples: 15 in the base, 3 in the head"),
    ],
)
def test_folders_of_other_settings_have_no_verdict(folders, change, machine, doubt):
    found = compare(*folders(lambda node: node.update({"size": {"bytes": 10**9}} | (change or {})), machine), TABLE)
    assert found.doubts == (doubt,)
    assert {check.outcome for check in found.checks} == {"inconclusive"}
    assert {check.reason for check in found.checks} == {doubt}
    assert (found.outcome, found.status) == ("inconclusive", 3)


def test_another_methodbench_is_what_may_be_under_test(folders):
    base, head = folders(machine={"versions": {"torch": "2.13.0+cpu", "methodbench": "9.9"}})
    assert compare(base, head, TABLE).outcome == "pass"


def test_another_recipe_of_the_same_name_is_noted(folders):
    base, head = folders()
    text = (head / "records.jsonl").read_text()
    (head / "records.jsonl").write_text(
        text.replace('"name": "full", "recipe": "full"', '"name": "full", "recipe": "x"')
    )
    assert "full: the recipe is full in the base, x in the head" in compare(base, head, TABLE).notes


def test_a_folder_without_records_or_of_a_newer_schema_is_refused(folders, tmp_path):
    base, _ = folders()
    with pytest.raises(RecordError, match="no such folder"):
        compare(base, tmp_path / "nowhere", TABLE)
    with pytest.raises(RecordError, match="there are no records in it"):
        compare(tmp_path, base, TABLE)
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(RecordError, match="no run is recorded in it"):
        compare(tmp_path, base, TABLE)
    (tmp_path / "records.jsonl").write_text('{"schema": 99, "kind": "run"}\n')
    with pytest.raises(RecordError, match="upgrade"):
        compare(tmp_path, base, TABLE)


def test_a_torn_line_is_noted(folders):
    base, head = folders()
    with (head / "records.jsonl").open("a") as file:
        file.write('{"schema": 2, "kind": "node", "id": "torn')
    assert any("this line is left out" in note for note in compare(base, head, TABLE).notes)
