"""The real executor: isolation, and every way in which a job can end."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.execute import forkserver
from bench.execute.forkserver import ForkServer
from bench.testing import jobs
from tests.packages import installed


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    """A package of somebody else's with the method `fault`, registered by its entry point."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "others_faults.py").write_text((Path(__file__).parent / "faults.py").read_text())
    with installed(folder, {"methodbench.methods": {"fault": "others_faults:Fault"}}):
        yield


@pytest.fixture(scope="module")
def server(fault):
    server = ForkServer()
    yield server
    server.close()


def quiet(what, done, of):
    pass


def test_a_job_runs_and_says_how_far_it_is(server, tiny_bert, tmp_path):
    told = []
    outcome = server.run(jobs.job("full", tiny_bert, tmp_path), 120, lambda *now: told.append(now))
    assert outcome.status == "ok", outcome
    assert len(outcome.measured["training"]["losses"]) == 6
    assert ("train", 6, 6) in told


@pytest.mark.parametrize("timeout", [120, 0.05])
def test_nothing_temporary_outlives_a_job(server, tiny_bert, tmp_path, timeout):
    job = replace(jobs.job("full", tiny_bert, tmp_path), temporary=tmp_path / "temporary" / "1" / "node")
    before = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    server.run(job, timeout, quiet)
    assert [path.name for path in job.temporary.parent.iterdir() if not path.name.startswith("pymp-")] == []
    left = {path.name for path in Path(tempfile.gettempdir()).iterdir()} - before
    assert not [name for name in left if name.startswith("methodbench-")]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice is Linux's")
def test_where_memory_runs_out_jobs_end_first():
    code = "import os; from bench.execute import worker; worker.follow(os.getppid()); print(open('/proc/self/oom_score_adj').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "1000", done.stderr


@pytest.mark.parametrize(
    ("way", "status", "says"),
    [
        ("raise", "failed", "ValueError: so it goes"),
        ("kill", "failed", "killed by SIGKILL"),
        ("segfault", "failed", "killed by SIGSEGV"),
        ("memory", "oom", "memory"),
        ("exit", "failed", "ended with status 3"),
    ],
)
def test_every_end_has_its_status_reason_and_log(server, tiny_bert, tmp_path, way, status, says):
    outcome = server.run(jobs.job(f'fault("{way}")', tiny_bert, tmp_path), 120, quiet)
    assert (outcome.status, says in outcome.reason) == (status, True), outcome
    assert "\n" not in outcome.reason
    assert f"about to {way}" in outcome.log
    # The next job is not harmed.
    assert server.run(jobs.job("magnitude(0.5)", tiny_bert, tmp_path), 120, quiet).status == "ok"


def test_what_was_measured_before_a_process_was_killed_is_kept(server, tiny_bert, tmp_path):
    assert server.run(jobs.job("full", tiny_bert, tmp_path), 120, quiet).status == "ok"
    outcome = server.run(jobs.job('full >> fault("late")', tiny_bert, tmp_path), 120, quiet)
    assert (outcome.status, outcome.reason) == ("failed", "the process was killed by SIGKILL")
    assert outcome.measured["quality"]["metrics"]["accuracy"] > 0
    assert outcome.measured["transform"]["peak_bytes"] >= 0
    assert "size" not in outcome.measured


def test_a_job_over_its_time_is_stopped(server, tiny_bert, tmp_path):
    started = time.monotonic()
    outcome = server.run(jobs.job('fault("hang")', tiny_bert, tmp_path), 4, quiet)
    assert outcome.status == "timeout"
    assert "4 s" in outcome.reason
    assert time.monotonic() - started < 60


def test_jobs_that_run_in_other_threads_can_be_ended(server, tiny_bert, tmp_path):
    begun = threading.Barrier(3)
    folders = [tmp_path / name for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        found = []
        for folder in folders:
            folder.mkdir()
            job = jobs.job("full", tiny_bert, folder, budget={"steps": 100_000})
            first = iter([begun.wait])
            found.append(threads.submit(server.run, job, 120, lambda *now, first=first: next(first, lambda: None)()))
        begun.wait(60)
        began = time.monotonic()
        server.stop()
        assert {future.result(30).reason for future in found} == {"the process was killed by SIGKILL"}
    assert time.monotonic() - began < 10


def test_jobs_that_run_side_by_side_say_so(server, tiny_bert, tmp_path):
    begun = threading.Barrier(2)
    folders = [tmp_path / name for name in "ab"]
    with ThreadPoolExecutor(2) as threads:
        found = []
        for folder in folders:
            folder.mkdir()
            first = iter([begun.wait])
            job = jobs.job("magnitude(0.5)", tiny_bert, folder)
            found.append(threads.submit(server.run, job, 120, lambda *now, first=first: next(first, lambda: None)()))
        assert [future.result().beside for future in found] == [True, True]
    assert not server.run(jobs.job("magnitude(0.5)", tiny_bert, tmp_path), 120, quiet).beside
    assert not server._accompanied


def test_what_a_job_prints_is_not_on_the_terminal(server, tiny_bert, tmp_path, capfd):
    job = jobs.job('fault("talk")', tiny_bert, tmp_path)
    server.run(job, 120, quiet)
    assert "terminal" not in "".join(capfd.readouterr())
    assert "to the user's terminal" in job.log.read_text()


def test_a_folder_of_the_users_does_not_shadow_ours(fault, tiny_bert, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "suite.toml").write_text(
        f'model = "{tiny_bert}"\n[task]\nkind = "classification"\ndata = "{jobs.table(tmp_path).data}"\n'
        '[budget]\nsteps = 2\n[measure]\nlatency = []\n[recipes]\nfull = "full"\n'
    )
    methodbench = Path(sys.executable).parent / "methodbench"
    done = subprocess.run([methodbench, "run", "suite.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


SUITE = """
model = "{model}"
[task]
kind = "classification"
data = "{data}"
[budget]
steps = 4000
[recipes]
full = "full"
"""


def _long_run(tiny_bert, tmp_path):
    (tmp_path / "suite.toml").write_text(SUITE.format(model=tiny_bert, data=jobs.table(tmp_path).data))
    methodbench = Path(sys.executable).parent / "methodbench"
    process = subprocess.Popen(
        [methodbench, "run", "suite.toml", "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
        # Who starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    log = tmp_path / "out" / "logs"
    deadline = time.monotonic() + 100
    while not (log.is_dir() and list(log.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)
    return process


def _session(process):
    """The processes of the session that `process` leads."""
    out = subprocess.run(["ps", "-e", "-o", "sid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    return [
        int(pid)
        for sid, pid, stat in map(str.split, out.splitlines())
        if int(sid) == process.pid and not stat.startswith("Z")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_with_130_and_leaves_nothing_behind(tiny_bert, tmp_path, presses):
    process = _long_run(tiny_bert, tmp_path)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Interrupted" in errors or presses > 1
    assert _eventually_none(process)


@pytest.mark.slow
def test_kill_9_leaves_no_worker_behind(tiny_bert, tmp_path):
    process = _long_run(tiny_bert, tmp_path)
    assert len(_session(process)) > 1
    process.kill()
    process.communicate(timeout=60)
    assert _eventually_none(process)


def _eventually_none(process):
    deadline = time.monotonic() + 20
    while _session(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _session(process)


@pytest.mark.parametrize("timeout", [3e6, 1e12, math.inf])
def test_a_timeout_may_be_as_long_as_one_likes(timeout):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.send(("done", "ok", "", {}))
    alive, _ = multiprocessing.Pipe()
    process = SimpleNamespace(sentinel=alive.fileno())
    assert forkserver._answer(process, ours, timeout, lambda what, done, of: None, {}) == ("ok", "", {})
