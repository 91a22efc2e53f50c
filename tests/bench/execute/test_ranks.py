"""Stages of several processes: their end is everybody's end, and nothing is left of them."""

import multiprocessing.forkserver
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.execute.forkserver import ForkServer
from bench.execute.worker import left_alone
from bench.tasks.kinds.classification import ClassificationTable
from bench.testing import jobs

LONG = {"budget": {"steps": 100_000}, "measure": {"latency": []}}


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


def quiet(what, done, of, seen):
    pass


def below(pid):
    out = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [row.split() for row in out.splitlines()]
    return [int(child) for child, parent, stat in rows if int(parent) == pid and not stat.startswith("Z")]


def ranks():
    """The processes of the stage that runs, first to last."""
    workers = below(multiprocessing.forkserver._forkserver._forkserver_pid)
    return sorted(rank for worker in workers for rank in below(worker))


def gone(pids):
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(_alive(pid) for pid in pids)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Watch:
    """Does something once, when training has begun."""

    def __init__(self, act):
        self.act, self.seen, self.when = act, [], 0.0

    def __call__(self, what, done, of, seen):
        if what == "train" and done > 2 and not self.seen:
            self.seen = ranks()
            self.when = time.monotonic()
            self.act(self.seen)


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_killed_ends_the_stage(server, tiny_bert, tmp_path, which):
    watch = Watch(lambda pids: os.kill(pids[which], signal.SIGKILL))
    outcome = server.run(jobs.job("full + data_parallel(2)", tiny_bert, tmp_path, **LONG), 120, watch)
    assert time.monotonic() - watch.when < 10
    assert outcome.status == "failed"
    assert f"process {which} of 2: the process was killed by SIGKILL" in outcome.reason
    assert len(watch.seen) == 2
    assert gone(watch.seen)


def test_one_that_hangs_is_stopped_with_the_others(server, tiny_bert, tmp_path):
    watch = Watch(lambda pids: os.kill(pids[1], signal.SIGSTOP))
    outcome = server.run(jobs.job("full + fully_sharded(2)", tiny_bert, tmp_path, **LONG), 15, watch)
    assert outcome.status == "timeout"
    assert len(watch.seen) == 2
    assert gone(watch.seen)


def test_a_worker_that_is_killed_takes_its_processes_along(server, tiny_bert, tmp_path):
    def kill_the_worker(pids):
        for worker in below(multiprocessing.forkserver._forkserver._forkserver_pid):
            os.kill(worker, signal.SIGKILL)

    watch = Watch(kill_the_worker)
    outcome = server.run(jobs.job("full + data_parallel(2)", tiny_bert, tmp_path, **LONG), 120, watch)
    assert outcome.status == "failed"
    assert len(watch.seen) == 2
    assert gone(watch.seen)


def test_what_one_finds_is_the_stages_status(server, tiny_bert, tmp_path):
    outcome = server.run(jobs.job("full(lr=1e30) + data_parallel(2)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "diverged", outcome
    assert "of 2: the loss is" in outcome.reason


def test_an_error_has_its_traceback_in_the_log(server, tiny_bert, tmp_path):
    nowhere = ClassificationTable(kind="classification", data=str(tmp_path / "nowhere.csv"))
    job = jobs.job("full + data_parallel(2)", tiny_bert, tmp_path, task=nowhere)
    outcome = server.run(job, 120, quiet)
    assert outcome.status == "failed"
    assert re.match(r"process [01] of 2", outcome.reason)  # whichever is the first to find out
    assert "Traceback" in outcome.log


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (RuntimeError("[…/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:25499."), True),
        (RuntimeError("[…/tcp/pair.cc:537] Read error [10.0.0.2]:25499: Connection reset by peer."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("by peer"), False),
    ],
)
def test_what_follows_from_the_end_of_another_is_told_from_a_cause(error, is_so):
    assert left_alone(error) is is_so


def test_the_next_job_is_not_harmed(server, tiny_bert, tmp_path):
    outcome = server.run(jobs.job("full + data_parallel(2)", tiny_bert, tmp_path), 120, quiet)
    assert outcome.status == "ok", outcome
    assert outcome.measured["seconds"]["launch"] > 0
    assert len(outcome.measured["training"]["ranks"]) == 2
