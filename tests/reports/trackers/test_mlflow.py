"""Read back by MLflow."""

import pytest

from reports.trackers.sending import Sender

pytest.importorskip("mlflow")
pytest.importorskip("alembic")
pytestmark = pytest.mark.filterwarnings("default")  # of mlflow's own code


def runs(folder):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("Which-method-for-topics")
    return client, {run.data.params["name"]: run for run in client.search_runs([experiment.experiment_id])}


def test_the_curve_the_figures_and_the_settings_are_read_back(folder, changed):
    from bench.record.reading import read

    Sender(folder, ["mlflow"]).send()
    client, found = runs(folder)
    assert set(found) == {"full", "int8", "adamw, lr too high", "two GPUs"}
    run, node = found["full"], read(folder).nodes["minilm/stdlib-topics/1/full"]
    assert (run.info.run_name, run.info.status) == ("full, seed 1", "FINISHED")
    assert run.data.metrics["accuracy"] == node.quality.metrics["accuracy"]
    assert (run.data.params["recipe"], run.data.params["unit.accuracy"]) == ("full", "fraction")
    history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    assert [metric.step for metric in history] == list(range(1, 61))
    assert [metric.value for metric in history] == node.training.losses
    assert found["adamw, lr too high"].info.status == "FAILED"
    assert found["adamw, lr too high"].data.tags["reason"] == "the loss is nan at step 17 of 60"

    before = run.data.metrics["latency_1x16"]
    changed("full")
    Sender(folder, ["mlflow"]).send()
    _, found = runs(folder)
    assert len(found) == 4
    assert found["full"].data.metrics["latency_1x16"] == pytest.approx(2 * before)


def test_a_server_that_is_not_there_is_told(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = Sender(folder, ["mlflow"]).send()
    assert (told[0].sent, told[0].lacks) == (0, 4)
    assert told[0].why.startswith("MlflowException: ")
