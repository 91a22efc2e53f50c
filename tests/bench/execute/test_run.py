import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from bench.compare.compare import compare
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.execute.slots import slots
from bench.machine import disk
from bench.record.errors import RecordError
from bench.record.store import Store
from bench.stage import checkpoint
from bench.stage.job import untold
from bench.testing.fake import Fake
from reports import words
from tests.subjects import HERE, NoTask, make_plan

RECIPES = {"int8": "full >> torch_int8_dynamic", "sparse": "full >> magnitude(0.5)", "full": "full", "bad": "merge"}


class Silent:
    def begin(self, nodes, recorded, records):
        self.nodes, self.recorded = nodes, recorded

    def node(self, node):
        return untold

    def making(self, what):
        self.made = what

    def ended(self, node, record):
        pass

    def timings(self, nodes, *, again):
        pass

    def timed(self, node, record):
        pass


@pytest.fixture
def start(monkeypatch, tmp_path):
    def start(
        behave=lambda job: Outcome("ok"),
        recipes=RECIPES,
        names=None,
        fresh=False,
        jobs=1,
        minutes=0.0,
        looks=(),
        **keys,
    ):
        whole = make_plan(monkeypatch, recipes, **keys)
        executor, store = Fake(behave), Store(tmp_path / "out")
        result = run(
            whole, names or set(recipes), store, executor, Silent(), fresh=fresh, room=slots(whole.machine, jobs),
            checkpoint_minutes=minutes, looks=looks,
        )  # fmt: skip
        return result, executor, store

    return start


def jobs(executor, what="stage"):
    return [job.recipe.split(" >> ")[-1].split("(")[0] for job in executor.jobs if job.what == what]


def test_a_shared_prefix_trains_once_in_the_executor_and_in_the_records(start):
    result, executor, store = start()
    assert result.ok
    assert jobs(executor) == ["full", "torch_int8_dynamic", "magnitude"]
    ok = [record["recipe"] for record in store.read().nodes.values() if record["status"] == "ok"]
    assert sorted(ok) == ["full", "full >> magnitude(amount=0.5)", "full >> torch_int8_dynamic"]


def test_each_stage_starts_from_its_parent_and_is_measured(start):
    _, executor, _ = start()
    stages = [job for job in executor.jobs if job.what == "stage"]
    assert stages[0].input is None
    assert stages[1].input == stages[2].input == stages[0].output
    assert len(jobs(executor, "serve")) == 3


def test_latency_processes_are_counted_and_can_be_turned_off(start):
    _, executor, _ = start(recipes={"full": "full"}, measure={"latency_processes": 3})
    assert [job.process for job in executor.jobs if job.what == "serve"] == [0, 1, 2]
    _, executor, _ = start(recipes={"full": "full"}, measure={"latency": []})
    assert jobs(executor, "serve") == []


def test_what_became_of_the_texts_is_recorded_and_reported(start, monkeypatch):
    counts = {"read": 12, "equal": 2, "near_equal": 1, "conflicting": 0, "train": 6, "validation": 1, "test": 2}
    monkeypatch.setattr(NoTask, "counts", lambda self: counts)
    _, _, store = start()
    (line,) = store.read().runs
    assert line["data"] == {"no-task": counts}
    (comparison,) = compare(store.read())
    assert comparison.data == counts


def test_what_is_recorded_is_not_run_again(start):
    start()
    result, executor, _ = start()
    assert executor.jobs == []
    assert result.ok
    result, executor, _ = start(fresh=True)
    assert len(jobs(executor)) == 3


def test_refusals_are_recorded_once(start):
    result, _, store = start()
    start()
    assert [cell.name for cell in result.refused] == ["bad"]
    lines = [json.loads(line) for line in (store.folder / "records.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line.get("status") == "refused"]
    assert len(refused) == 1
    assert "no adapter to fold" in refused[0]["reason"]


def test_a_refusal_under_way_is_as_good_as_a_planned_one(start):
    def behave(job):
        return Outcome("refused", "because of its sizes") if "magnitude" in job.recipe else Outcome("ok")

    recipes = {**RECIPES, "after": "full >> magnitude(0.5) >> full"}
    result, executor, store = start(behave, recipes)
    assert result.ok
    assert {cell.name for cell in result.refused} == {"sparse", "after", "bad"}
    assert jobs(executor) == ["full", "torch_int8_dynamic", "magnitude"]
    (comparison,) = compare(store.read())
    assert {row.name: row.status for row in comparison.rows} == {
        "full": "ok", "int8": "ok", "sparse": "refused", "after": "refused", "bad": "refused",
    }  # fmt: skip
    assert next(words.reasons(row) for row in comparison.rows if row.name == "after") == ["because of its sizes"]


def test_what_is_refused_hides_no_failure(start):
    result, _, _ = start(lambda job: Outcome("refused" if "magnitude" in job.recipe else "failed"))
    assert not result.ok


@pytest.mark.parametrize("status", ["oom", "failed", "timeout", "invalid", "diverged"])
def test_a_failure_is_recorded_and_runs_again_next_time(start, status):
    def behave(job):
        return Outcome(status, "because", "log") if "magnitude" in job.recipe else Outcome("ok")

    result, executor, store = start(behave)
    assert not result.ok
    bad = next(record for record in store.read().nodes.values() if record["status"] == status)
    assert (bad["reason"], bad["log"]) == ("because", "log")
    assert checkpoint.present(store.folder) == {bad["parent"]}
    result, executor, store = start()
    assert jobs(executor) == ["magnitude"]
    assert result.ok
    assert checkpoint.present(store.folder) == set()


def test_what_stands_on_a_failure_does_not_run(start):
    result, executor, _ = start(lambda job: Outcome("failed", "no"))
    assert jobs(executor) == ["full"]
    assert set(result.statuses.values()) == {"failed"}
    assert len(result.statuses) == 3


@pytest.mark.parametrize("status", ["oom", "timeout"])
def test_inference_that_cannot_be_measured_is_absent_and_the_rest_stays(start, status):
    def answer(job):
        if job.what == "serve":
            return Outcome(status, "big", measured={"inference": {"load_peak_bytes": 5}})
        return Outcome("ok", measured={"absent": {"quality": "why"}, "size": {"bytes": 3}})

    result, _, store = start(answer, recipes={"full": "full"})
    (record,) = store.read().nodes.values()
    assert (record["status"], record["reason"], record["size"]) == ("ok", "", {"bytes": 3})
    reason = f"in process 1 of 1: {status}: big"
    names = ["latency_1x16", "latency_8x64", "inference_peak_bytes"]
    assert record["absent"] == {"quality": "why", **dict.fromkeys(names, reason)}
    assert result.ok


def test_a_failure_while_serving_fails_the_node(start):
    result, _, store = start(
        lambda job: Outcome("failed", "no") if job.what == "serve" else Outcome("ok", measured={"size": {"bytes": 3}}),
        recipes={"full": "full"},
    )
    (record,) = store.read().nodes.values()
    assert (record["status"], record["reason"]) == ("failed", "while measuring inference: no")
    assert record["size"] == {"bytes": 3}
    assert not result.ok
    assert checkpoint.present(store.folder) == set()


def test_a_file_in_the_way_beside_a_record_costs_nothing(start, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "latency").touch()
    timed = {"latency": [{"batch": 1, "length": 8, "clock": "wall", "threads": 1, "unit": "second", "loops": 1, "warmups": [], "values": [1.0], "process": 0}]}  # fmt: skip
    result, _, store = start(lambda job: Outcome("ok", measured=timed if job.what == "serve" else {}), {"full": "full"})
    assert result.ok
    assert [text for text in result.beside if text.endswith("out/latency: File exists")] == list(result.beside) != []
    (record,) = store.read().nodes.values()
    assert record["status"] == "ok"
    _, executor, _ = start(recipes={"full": "full"})
    assert executor.jobs == []


def test_an_error_of_the_files_around_a_stage_costs_nothing_that_was_measured(start):
    def behave(job):
        if job.what == "serve":
            raise NotADirectoryError(20, "Not a directory", "logs/x")
        return Outcome("ok", measured={"size": {"bytes": 3}})

    result, _, store = start(behave, {"full": "full"})
    (record,) = store.read().nodes.values()
    assert (record["status"], record["size"]) == ("failed", {"bytes": 3})
    assert record["reason"] == "while measuring inference: around the job: logs/x: Not a directory"
    assert not result.ok


@pytest.mark.parametrize("name", ["logs", "temporary", "checkpoints"])
def test_a_file_in_the_way_of_what_a_stage_needs_is_said_before_it_runs(start, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).touch()
    with pytest.raises(RecordError, match=f"out/{name}.*move it or choose another folder"):
        start(lambda job: pytest.fail("it ran"))


@pytest.mark.parametrize("raises", [True, False])
def test_a_full_disk_is_recorded_and_ends_the_run(start, tmp_path, raises):
    def behave(job):
        if raises:
            raise OSError(errno.ENOSPC, "No space left on device", "temporary/x")
        return Outcome("failed", f"{disk.FULL}: [Errno 28]")

    with pytest.raises(disk.Full, match=r"the disk is full: .*; free some space and run the same command again"):
        start(behave)
    (record,) = [each for each in Store(tmp_path / "out").read().nodes.values() if each["status"] != "refused"]
    assert (record["status"], record["reason"].startswith(disk.FULL)) == ("failed", True)
    result, _, _ = start()
    assert result.ok


def test_checkpoints_go_as_soon_as_nothing_needs_them(start):
    seen = []

    def behave(job):
        if job.what == "stage":
            seen.append(len(checkpoint.present(job.output.parent.parent)))
        return Outcome("ok")

    _, _, store = start(behave, {"a": "full >> magnitude(0.5) >> torch_int8_dynamic", "b": "lora"})
    assert seen == [0, 1, 2, 0]  # the uncompressed model is there for whatever was made from it
    assert checkpoint.present(store.folder) == set()


def test_checkpoints_are_private(start):
    _, _, store = start()
    assert (store.folder / "checkpoints").stat().st_mode & 0o077 == 0


def test_a_new_branch_gets_its_parent_back(start):
    start(recipes={"int8": "full >> torch_int8_dynamic"})
    _, executor, _ = start()
    assert jobs(executor) == ["full", "magnitude"]


def test_a_chain_gets_the_uncompressed_model_beside_its_parent(start):
    _, executor, _ = start(recipes={"x": "full >> magnitude(0.5) >> torch_int8_dynamic"})
    full, sparse, int8 = (job for job in executor.jobs if job.what == "stage")
    assert full.uncompressed is None
    assert sparse.uncompressed == int8.uncompressed == full.output
    assert int8.input == sparse.output


class Together:
    """Answers a stage when as many others as can run beside it have begun, and notes who ran beside whom."""

    def __init__(self, number):
        self.barrier = threading.Barrier(number)
        self.lock, self.now, self.most, self.gpus, self.beside = threading.Lock(), set(), 0, [], set()

    def __call__(self, job):
        name = job.recipe.split(" >> ")[-1].split("(")[0]
        if job.what == "stage":
            with self.lock:
                assert not {gpu for _, gpus in self.now for gpu in gpus} & set(job.gpus), "two nodes on one GPU"
                self.now.add((job.node, job.gpus))
                self.most = max(self.most, len(self.now))
                if len(self.now) > 1:
                    self.beside |= {node for node, _ in self.now}
                self.gpus.append((name, job.gpus))
            if name != "full":
                with contextlib.suppress(threading.BrokenBarrierError):
                    self.barrier.wait(10)
            with self.lock:
                self.now.remove((job.node, job.gpus))
        measured = {"trust": {"training": {"contended": False, "reason": ""}}} if job.what == "stage" else {}
        return Outcome("ok", measured=measured, beside=job.node in self.beside)


BRANCHES = {"int8": "full >> torch_int8_dynamic", "sparse": "full >> magnitude(0.5)"}


def test_branches_run_side_by_side_after_what_they_stand_on(start):
    together = Together(2)
    result, executor, store = start(together, BRANCHES, jobs=2)
    assert result.ok
    assert together.most == 2
    assert jobs(executor)[0] == "full"
    trust = {record["stage"]: record["trust"]["training"] for record in store.read().nodes.values()}
    assert trust.pop("full") == {"contended": False, "reason": ""}
    assert {found["reason"] for found in trust.values()} == {"another stage ran beside it"}
    assert all(found["contended"] for found in trust.values())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_what_one_process_says_against_a_timing_stands(start, processes, first):
    def behave(job):
        if job.what == "stage":
            return Outcome("ok")
        said = {"contended": first and not job.process, "reason": "busy" if first and not job.process else ""}
        return Outcome("ok", measured={"trust": {"latency": said}}, beside=not first and not job.process)

    _, _, store = start(behave, {"full": "full"}, measure={"latency_processes": processes})
    (node,) = store.read().nodes.values()
    reason = "busy" if first else "another stage ran beside it"
    assert node["trust"]["latency"] == {"contended": True, "reason": reason}


def test_one_job_at_a_time_is_the_default(start):
    together = Together(1)
    start(together, BRANCHES)
    assert together.most == 1


def test_no_two_nodes_share_a_gpu(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    here = dataclasses.replace(HERE, device="cuda", gpus=3)
    together = Together(1)
    recipes = {f"lr{n}": f"full(lr={n})" for n in range(1, 5)} | {"two": "full + data_parallel(2)"}
    result, executor, _ = start(together, recipes, machine=here, jobs=None)
    assert result.ok
    given = {job.recipe: job.gpus for job in executor.jobs}
    assert {len(gpus) for text, gpus in given.items() if "data_parallel" not in text} == {1}
    assert [len(gpus) for text, gpus in given.items() if "data_parallel" in text] == [2]
    assert {gpu for gpus in given.values() for gpu in gpus} <= {"4", "5", "6"}


def test_what_is_compared_is_on_one_card_and_other_seeds_are_on_others(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    here = dataclasses.replace(HERE, device="cuda", gpus=3)
    recipes = {f"lr{n}": f"full(lr={n})" for n in range(1, 5)} | {"int8": "full >> magnitude(0.5)"}
    _, executor, store = start(recipes=recipes, machine=here, seeds=[0, 1], jobs=None, names=set(recipes) - {"lr4"})
    cards = {seed: {job.gpus for job in executor.jobs if job.seed == seed} for seed in (0, 1)}
    assert cards == {0: {("4",)}, 1: {("5",)}}
    # What is run later is compared with it.
    whole = make_plan(monkeypatch, recipes, machine=here, seeds=[0, 1])
    later = Fake(lambda job: Outcome("ok"))
    run(whole, set(recipes), store, later, Silent(), room=slots(here, 1))
    assert {(job.seed, job.gpus) for job in later.jobs} == {(0, ("4",)), (1, ("5",))}


def test_where_all_is_to_end_the_jobs_end_first(start, monkeypatch):
    stopped = threading.Event()
    monkeypatch.setattr(Fake, "stop", lambda self: stopped.set())

    def behave(job):
        if "magnitude" in job.recipe:
            raise KeyboardInterrupt
        if "int8" in job.recipe:
            assert stopped.wait(10)
        return Outcome("ok")

    with pytest.raises(KeyboardInterrupt):
        start(behave, BRANCHES, jobs=2)
    assert stopped.is_set()


def test_only_runs_what_is_named_and_the_record_knows_all(start):
    _, executor, store = start(names={"full"})
    assert jobs(executor) == ["full"]
    (run,) = store.read().runs
    assert {cell["name"] for cell in run["cells"]} == set(RECIPES)
    assert run["margins"] == {"quality": 0.01, "cost": 0.02}


KILLED = """
    import os, sys, signal
    from pathlib import Path
    import pytest
    from bench.execute.base import Outcome
    from bench.testing.fake import Fake
    from bench.record.store import Store
    from bench.execute.run import run
    from tests.bench.execute.test_run import RECIPES, Silent
    from tests.subjects import make_plan

    moment, folder = int(sys.argv[1]), Path(sys.argv[2])
    calls = 0

    def now(*args, **kwargs):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    # Every write and rename to disk is a moment at which the power may go.
    for name in ("write", "fsync", "replace", "unlink", "open"):
        def wrap(real):
            def wrapped(*args, **kwargs):
                now()
                return real(*args, **kwargs)
            return wrapped
        setattr(os, name, wrap(getattr(os, name)))

    def behave(job):
        with open(folder / "ran.txt", "a") as file:
            file.write(f"{job.what} {job.node}\\n")
        return Outcome("ok")

    with pytest.MonkeyPatch.context() as patch:
        whole = make_plan(patch, RECIPES)
        run(whole, set(RECIPES), Store(folder / "out"), Fake(behave), Silent())
"""


@pytest.mark.slow
def test_killed_at_any_moment_no_ok_node_runs_twice_and_none_is_missing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    for moment in range(1, 60, 4):
        folder = tmp_path / str(moment)
        folder.mkdir()
        first = subprocess.run(
            [sys.executable, script, str(moment), folder], env=environment, capture_output=True, text=True
        )
        assert first.returncode in (0, -signal.SIGKILL), first.stderr
        done = {id_ for id_, record in Store(folder / "out").read().nodes.items() if record["status"] == "ok"}
        ran = (folder / "ran.txt").read_text().splitlines() if (folder / "ran.txt").exists() else []
        again = subprocess.run([sys.executable, script, "0", folder], env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        second = (folder / "ran.txt").read_text().splitlines()[len(ran) :] if (folder / "ran.txt").exists() else []
        assert not {line.split()[1] for line in second} & done
        assert sum(record["status"] == "ok" for record in Store(folder / "out").read().nodes.values()) == 3
        if first.returncode == 0:
            return
    raise AssertionError("no moment was late enough to finish: raise the range")


def unfinished(outcome):
    """What a stage does that leaves a checkpoint of its training, and ends so."""

    def behave(job):
        checkpoint.of_training(job.output).write_bytes(b"half")
        return Outcome(outcome)

    return behave


@pytest.mark.parametrize(
    ("status", "stays"),
    [("ok", 0), ("diverged", 0), ("invalid", 0), ("refused", 0), ("failed", 1), ("timeout", 1), ("oom", 1)],
)
def test_the_checkpoint_of_a_training_stays_where_it_may_end_otherwise(start, status, stays):
    _, executor, store = start(unfinished(status), recipes={"full": "full"}, minutes=3)
    assert {job.checkpoint_minutes for job in executor.jobs if job.what == "stage"} == {3}
    assert len(checkpoint.unfinished(store.folder)) == stays
    assert checkpoint.present(store.folder) == set()


def test_the_next_run_finds_the_checkpoint_of_a_training_and_a_fresh_one_does_not(start):
    there = []

    def look(job):
        there.append(checkpoint.of_training(job.output).exists())
        return Outcome("timeout")

    for fresh in (False, True):
        start(unfinished("timeout"), recipes={"full": "full"})
        start(look, recipes={"full": "full"}, fresh=fresh)
    assert there == [True, False]


def test_checkpoints_of_trainings_that_nobody_goes_on_with_are_removed(start):
    _, _, store = start(unfinished("timeout"), recipes={"full": "full", "head": "head"})
    assert len(checkpoint.unfinished(store.folder)) == 2
    start(recipes={"full": "full", "head": "head"}, names={"full"})  # the other is not asked for
    (left,) = checkpoint.unfinished(store.folder)
    start(recipes={"full": "full"}, looks=(3,))  # a round, of a part of the plan
    assert checkpoint.unfinished(store.folder) == {left}
    start(recipes={"full": "full"})
    assert checkpoint.unfinished(store.folder) == set()


def test_one_that_was_recorded_meanwhile_is_removed(start):
    _, executor, store = start(recipes={"full": "full"})
    checkpoint.of_training(executor.jobs[0].output).write_bytes(b"of a process that was killed after its record")
    start(recipes={"full": "full"})
    assert checkpoint.unfinished(store.folder) == set()


@pytest.mark.parametrize(("jobs", "alone"), [(1, True), (2, False)])
def test_a_job_knows_whether_others_can_run_beside_it(start, jobs, alone):
    _, executor, _ = start(recipes={"full": "full"}, jobs=jobs)
    assert executor.jobs[0].alone is alone


def test_the_time_of_earlier_processes_is_in_the_total(start):
    def behave(job):
        return Outcome("ok", measured={"seconds": {"earlier": 1000.0}})

    _, _, store = start(behave, recipes={"full": "full"}, measure={"latency": []})
    (node,) = store.read().nodes.values()
    assert 1000 < node["seconds"]["total"] < 1100
