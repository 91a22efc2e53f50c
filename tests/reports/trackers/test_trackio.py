"""Read back by trackio."""

import sys

import pytest

from reports.trackers.sending import Sender

pytest.importorskip("trackio")


def test_the_curve_the_figures_and_the_settings_are_read_back(folder, changed, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads TRACKIO_DIR once
    from bench.record.reading import read

    Sender(folder, ["trackio"]).send()
    from trackio.sqlite_storage import SQLiteStorage

    project, name = "Which-method-for-topics", "full, seed 1 (minilm/s)"
    assert len(SQLiteStorage.get_runs(project)) == 4
    config = SQLiteStorage.get_run_config(project, name)
    assert (config["recipe"], config["unit.accuracy"]) == ("full", "fraction")
    logs, node = SQLiteStorage.get_logs(project, name), read(folder).nodes["minilm/stdlib-topics/1/full"]
    assert [log["loss"] for log in logs if "loss" in log] == node.training.losses
    assert [log["step"] for log in logs if "loss" in log] == list(range(1, 61))
    figures = next(log for log in logs if "accuracy" in log)
    assert figures["accuracy"] == node.quality.metrics["accuracy"]

    changed("full")
    Sender(folder, ["trackio"]).send()
    again = SQLiteStorage.get_logs(project, name)
    assert len(again) == len(logs)
    assert next(log for log in again if "accuracy" in log)["latency_1x16"] == pytest.approx(2 * figures["latency_1x16"])
