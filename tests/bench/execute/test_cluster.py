"""The executor of several machines, on a real Ray cluster of two raylets on this one."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.execute.cluster import Cluster, divided
from bench.models.architecture import block_linears
from bench.recipe.recipe import parse
from bench.stage import checkpoint
from bench.testing import jobs
from bench.testing.jobs import quiet
from tests.subjects import HERE, make_plan

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*", "ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

LONG = {"budget": {"steps": 100_000}}


@pytest.mark.parametrize(
    ("processes", "rooms", "parts"),
    [
        (4, [8, 8], [4]),
        (4, [2, 2], [2, 2]),
        (8, [4, 0, 16, 4], [8]),
        (6, [4, 4, 4], [3, 3]),
        (7, [4, 4, 4], [4, 3]),
        (8, [4, 3, 4], [4, 4]),
        (6, [4, 2], [4, 2]),
        (9, [5, 1, 4], [5, 4]),
        (10, [5, 1, 4], [5, 4, 1]),
        (11, [5, 1, 4], []),
        (1, [], []),
    ],
)
def test_few_machines_and_equal_shares(processes, rooms, parts):
    assert divided(processes, rooms) == parts


def test_a_machines_server_outlives_the_folder_of_its_first_job():
    code = """
import sys
from multiprocessing.util import get_temp_dir
from pathlib import Path
from bench.execute import cluster, forkserver
cluster._server(cluster.NOTHING)
forkserver._meet_in(Path(sys.argv[1]))
print(get_temp_dir())
"""
    folder = tempfile.mkdtemp(dir="/tmp")  # short enough for a socket's name
    try:
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.stdout.strip(), done.stderr
    assert not Path(done.stdout.strip()).is_relative_to(folder)


class Machines:
    """A head that runs nothing, and two machines of two cores each."""

    def __init__(self):
        # Few processes are started ahead, so that stages find one that has its imports already.
        self.made = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "_system_config": {"prestart_worker_first_driver": False}},
        )
        self.both = [self.made.add_node(num_cpus=2) for _ in range(2)]

    def lose(self, number):
        """One of them goes without a word."""
        self.made.remove_node(self.both.pop(number), allow_graceful=False)

    def mend(self):
        """Others come until there are two again."""
        while len(self.both) < 2:
            self.both.append(self.made.add_node(num_cpus=2))


@pytest.fixture(scope="module")
def machines():
    machines = Machines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", machines.made.address)
        yield machines
    machines.made.shutdown()


@pytest.fixture(scope="module")
def one(machines):
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(one, machines):
    machines.mend()
    one._through = "object-store"
    one._stopped.clear()
    yield one
    assert not one._running
    _until(lambda: not ranks(machines.both))
    _until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


@pytest.mark.slow
def test_a_plan_can_be_by_the_clusters_machines(machines, tiny_bert, tmp_path):
    machines.mend()
    command = ["plan", "--model", str(tiny_bert), "--task", "stdlib-topics", "--executor", "ray", "--threads", "2"]
    recipes = ["--recipe", "full + data_parallel(4)", "--recipe", "full + data_parallel(8)"]
    code = "import sys; from bench.cli.main import main; sys.argv[0] = 'methodbench'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *recipes], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert said.count("refused ") == 1
    assert "it takes 1 CPU for each of 8 processes, and the cluster's machines have 2 CPUs, 2 CPUs" in said
    assert done.stdout.splitlines()[-1].startswith("1 stages")


@pytest.mark.slow
def test_a_chain_of_stages_runs_on_other_machines(cluster, tiny_bert, tmp_path):
    assert cluster.room(jobs.job("full", tiny_bert, tmp_path).machine) == 2
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
    assert all("uncompressed" in entry for entry in served.measured["latency"])


@pytest.mark.slow
def test_a_stage_that_fails_is_not_tried_again(cluster, tiny_bert, tmp_path):
    outcome = cluster.run(jobs.job("full(lr=1e30)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "diverged"


LARGE = "magnitude(0.5) >> full + data_parallel(4)"


@pytest.fixture(scope="module")
def on_one_machine(one, machines, tiny_bert, tmp_path_factory):
    """The folder of a chain whose second stage takes four processes, and what that measured on a machine of four cores."""
    folder = tmp_path_factory.mktemp("alone")
    large = machines.made.add_node(num_cpus=4)
    for depth in (0, 1):
        outcome = one.run(jobs.job(LARGE, tiny_bert, folder, depth=depth), 120, quiet)
        assert outcome.status == "ok", outcome
    assert one._visits[-1].machine == large.node_id
    machines.made.remove_node(large)
    return folder, outcome.measured


@pytest.mark.slow
@pytest.mark.parametrize("through", ["object-store", "shared-folder"])
def test_a_stage_too_large_for_a_machine_takes_several(cluster, machines, on_one_machine, tiny_bert, tmp_path, through):
    cluster._through = through
    folder, alone = on_one_machine
    job = jobs.job(LARGE, tiny_bert, tmp_path)
    shutil.copy(folder / "checkpoints" / job.input.name, job.input)
    seen = []
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 120, quiet)
        while not found.done():
            seen.append([len(ranks([machine])) for machine in machines.both])
            time.sleep(0.02)
    outcome = found.result()
    assert outcome.status == "ok", outcome
    assert max(seen) == [2, 2]
    assert len(outcome.measured["training"]["ranks"]) == 4
    assert outcome.measured["training"]["losses"] == pytest.approx(alone["training"]["losses"], abs=1e-4)
    assert outcome.measured["quality"]["metrics"] == pytest.approx(alone["quality"]["metrics"], abs=1e-4)
    assert outcome.measured["environment"]
    assert not outcome.beside
    assert job.output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_one_process_that_is_killed_ends_the_stage_on_all_machines(cluster, machines, tiny_bert, tmp_path, number):
    job = jobs.job("full + data_parallel(4)", tiny_bert, tmp_path, **LONG)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 240, quiet)
        _until(lambda: job_trains(machines))
        os.kill(max(ranks([machines.both[number]])), signal.SIGKILL)
        killed = time.monotonic()
        outcome = found.result(60)
    assert time.monotonic() - killed < 15
    assert outcome.status == "failed"
    assert "of 4: the process was killed by SIGKILL" in outcome.reason


@pytest.mark.slow
def test_what_one_finds_is_the_stages_status_on_all_machines(cluster, tiny_bert, tmp_path):
    outcome = cluster.run(jobs.job("full(lr=1e30) + data_parallel(4)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "diverged", outcome


@pytest.mark.slow
def test_a_hang_on_one_machine_is_a_timeout(cluster, machines, tiny_bert, tmp_path):
    job = jobs.job("full + data_parallel(4)", tiny_bert, tmp_path, **LONG)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 10, quiet)
        _until(lambda: job_trains(machines))
        os.kill(max(ranks([machines.both[1]])), signal.SIGSTOP)
        assert found.result(60).status == "timeout"


@pytest.mark.slow
def test_what_no_cluster_holds_is_refused(cluster, machines, tiny_bert, tmp_path, monkeypatch):
    outcome = cluster.run(jobs.job("full + data_parallel(8)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "refused"
    assert "it takes 1 CPU for each of 8 processes, and the cluster's machines have 2 CPUs, 2 CPUs" in outcome.reason
    job = jobs.job("full", tiny_bert, tmp_path)
    outcome = cluster.run(dataclasses.replace(job, machine=dataclasses.replace(job.machine, threads=3)), 120, quiet)
    assert (outcome.status, "it takes 3 CPUs on one machine" in outcome.reason) == ("refused", True)
    # And at planning.
    recipes = {"four": "full + data_parallel(4)", "eight": "full + data_parallel(8)"}
    four, eight = make_plan(monkeypatch, recipes, shortage=cluster.shortage).cells
    assert four.refused == ()
    assert "data_parallel: it takes 1 CPU for each of 8 processes" in eight.refused[0]
    here = dataclasses.replace(HERE, device="cuda", gpus=8)
    assert "1 CPU and 1 GPU for each of 4 processes" in cluster.shortage(parse(recipes["four"]).stages[0], here)


@pytest.mark.slow
def test_stages_that_share_a_machine_are_marked(cluster, tiny_bert, tmp_path):
    """Of three stages of one thread each, two are on a machine together and one is alone."""
    found = []
    with ThreadPoolExecutor(3) as pool:
        for name in "abc":
            (tmp_path / name).mkdir()
            job = jobs.job("full", tiny_bert, tmp_path / name, budget={"steps": 200})
            job = dataclasses.replace(job, machine=dataclasses.replace(job.machine, threads=1))
            found.append(pool.submit(cluster.run, job, 120, quiet))
    outcomes = [future.result() for future in found]
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert len({visit.machine for visit in cluster._visits[-3:]}) == 2
    assert sorted(outcome.beside for outcome in outcomes) == [False, True, True]


@pytest.mark.slow
def test_a_machine_that_is_lost_loses_no_stage(cluster, machines, tiny_bert, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        found = []
        for folder in folders:
            folder.mkdir()
            job = jobs.job("full", tiny_bert, folder, budget={"steps": 200})
            found.append(threads.submit(cluster.run, job, 240, quiet))
        _until(lambda: len(below(machines.both, 3)) == 2)
        machines.lose(1)
        assert [future.result(240).status for future in found] == ["ok", "ok"]


@pytest.mark.slow
def test_a_machine_of_several_that_is_lost_loses_no_stage(cluster, machines, tiny_bert, tmp_path):
    job = jobs.job("full + data_parallel(4)", tiny_bert, tmp_path, budget={"steps": 50})
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 240, quiet)
        _until(lambda: job_trains(machines))
        machines.lose(1)
        machines.mend()
        outcome = found.result(240)
    assert outcome.status == "ok", outcome
    assert len({visit.machine for visit in cluster._visits[-4:]}) == 3


@pytest.mark.slow
def test_one_that_is_lost_twice_is_failed(cluster, machines, tiny_bert, tmp_path):
    job = jobs.job("full", tiny_bert, tmp_path, **LONG)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(cluster.run, job, 240, quiet)
        killed = set()
        for _ in range(2):
            _until(lambda: below(machines.both, 3) and at_work(machines.both) - killed)
            for process in at_work(machines.both) - killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        outcome = found.result(120)
    assert outcome.status == "failed"
    assert "lost, twice" in outcome.reason
    assert len(killed) == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["full", "full + data_parallel(4)"])
def test_jobs_can_be_ended(cluster, machines, tiny_bert, tmp_path, recipe):
    folders = [tmp_path / name for name in "abc"]  # the last has no room, and waits
    with ThreadPoolExecutor(3) as threads:
        found = []
        for folder in folders:
            folder.mkdir()
            found.append(threads.submit(cluster.run, jobs.job(recipe, tiny_bert, folder, **LONG), 240, quiet))
        _until(lambda: below(machines.both, 3))
        began = time.monotonic()
        cluster.stop()
        assert {(future.result(60).status, future.result().reason) for future in found} == {("failed", "stopped")}
    assert time.monotonic() - began < 20


def _until(holds, seconds=150):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def job_trains(machines):
    """All four processes of the stage are there, and have met: each uses more than one thread of gloo's."""
    found = ranks(machines.both)
    return len(found) == 4 and all(len(list(Path(f"/proc/{pid}/task").iterdir())) > 3 for pid in found)


def at_work(machines):
    """The processes of these raylets that do a job now."""
    return {pid for pid in below(machines, 1) if command(pid).startswith(b"ray::_do")}


def ranks(machines):
    """The processes that these raylets' jobs forked for themselves."""
    return below(machines, 4)


def below(machines, generation):
    """The children of these raylets, or those of that later generation: tasks, their servers, jobs, ranks."""
    found = {machine.all_processes["raylet"][0].process.pid for machine in machines}
    for _ in range(generation):
        found = children(found)
    return found


def children(parents):
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) in parents and state != "Z":
                found.add(int(status.parent.name))
    return found


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
