"""What tests of trackers share."""

import json

import pytest

from tests import synthetic
from tests.synthetic import METHODS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results of one seed: full, and a recipe of which one stage failed, and one that was refused."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key of who runs the tests
    names = ("full", "int8", "adamw, lr too high", "two GPUs")
    records = synthetic.records(methods={name: METHODS[name] for name in names}, seeds=(1,))
    for node in records.nodes.values():
        node["budget"] = {"steps": 60, "batch_size": 16}
    return synthetic.write(records, tmp_path / "out")


@pytest.fixture
def changed(folder):
    """Appends the record of a stage once more, with another latency."""

    def change(stage):
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        node = next(line for line in lines if line["kind"] == "node" and line["recipe"] == stage)
        for timed in node["latency"]:
            timed["values"] = [2 * value for value in timed["values"]]
        with (folder / "records.jsonl").open("a") as file:
            file.write(json.dumps(node) + "\n")
        return node["id"]

    return change
