"""The executor of several machines, on a real Ray cluster of two raylets on this one."""

import contextlib
import dataclasses
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import checkpoint
from bench.architecture import block_linears
from bench.execute.cluster import Cluster
from tests import jobs
from tests.jobs import quiet

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def machines(monkeypatch):
    """A head that runs nothing, and two machines of two cores each."""
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    both = [made.add_node(num_cpus=2) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made, both
    made.shutdown()


@pytest.fixture
def cluster(machines):
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.mark.parametrize("through", ["object-store", "shared-folder"])
def test_a_chain_of_stages_runs_on_other_machines(machines, tiny_bert, tmp_path, through):
    cluster = Cluster(through=through)
    try:
        assert cluster.room(2) == 2
        text = "full >> magnitude(0.5)"
        for depth in (0, 1):
            outcome = cluster.run(jobs.job(text, tiny_bert, tmp_path, depth=depth), 120, quiet)
            assert outcome.status == "ok", outcome
        assert outcome.measured["quality"]["metrics"]["agreement"] > 0
        assert outcome.measured["environment"]["machine"]["device"] == "cpu"
        job = jobs.job(text, tiny_bert, tmp_path)
        model, _ = checkpoint.load(job.output)
        weights = [layer.weight for layer in block_linears(model).values()]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        assert zeros == pytest.approx(0.5, abs=1e-3)
        served = cluster.run(dataclasses.replace(job, what="serve"), 120, quiet)
        assert served.status == "ok", served
        assert all("reference" in entry for entry in served.measured["latency"])
    finally:
        cluster.close()


def test_a_stage_that_fails_is_not_tried_again(cluster, tiny_bert, tmp_path):
    outcome = cluster.run(jobs.job("full(lr=1e30)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "diverged"


def test_a_machine_that_is_lost_loses_no_stage(cluster, machines, tiny_bert, tmp_path):
    made, (_, second) = machines
    folders = [tmp_path / name for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        found = []
        for folder in folders:
            folder.mkdir()
            job = jobs.job("full", tiny_bert, folder, budget={"steps": 600})
            found.append(threads.submit(cluster.run, job, 240, quiet))
        _until(lambda: len(cluster._running) == 2 and ray.available_resources().get("CPU", 0) == 0)
        time.sleep(3)  # both are at work
        made.remove_node(second, allow_graceful=False)
        assert [future.result(240).status for future in found] == ["ok", "ok"]


def test_one_that_is_lost_twice_is_failed(cluster, machines, tiny_bert, tmp_path):
    job = jobs.job("full", tiny_bert, tmp_path, budget={"steps": 100_000})
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 240, quiet)
        killed = set()
        for _ in range(2):
            _until(lambda: at_work(machines[1]) - killed)
            time.sleep(2)
            for process in at_work(machines[1]) - killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        outcome = found.result(120)
    assert outcome.status == "failed"
    assert "lost, twice" in outcome.reason
    assert len(killed) == 2


def test_jobs_can_be_ended(cluster, tiny_bert, tmp_path):
    job = jobs.job("full", tiny_bert, tmp_path, budget={"steps": 100_000})
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 240, quiet)
        _until(lambda: cluster._running)
        time.sleep(2)
        cluster.stop()
        assert found.result(60).status == "failed"


def _until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def at_work(machines):
    """The processes of these raylets that do a job now."""
    raylets = {machine.all_processes["raylet"][0].process.pid for machine in machines}
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent in raylets and (status.parent / "cmdline").read_bytes().startswith(b"ray::_do"):
                found.add(int(status.parent.name))
    return found
