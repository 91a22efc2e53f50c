"""What a run times at its end, with an executor that runs nothing."""

import dataclasses
import json

import pytest

from bench.execute import timings
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.record.store import Store
from bench.stage import checkpoint
from bench.stage.job import untold
from bench.testing.fake import Fake
from tests.subjects import HERE, make_plan

RECIPES = {
    "full": "full",
    "int8": "full >> torch_int8_dynamic",
    "head": "head",
    "healed": "full >> magnitude(0.5) >> full(share=0.3)",
}
TRAINED = {
    "warmup": 1, "step_seconds": [9.0, 0.02, 0.02], "tokens": [100, 100, 100], "samples": [1, 1, 1], "peak_bytes": 2**30,
}  # fmt: skip


class Told:
    def __init__(self):
        self.rounds = []

    def begin(self, nodes, recorded, records):
        pass

    def node(self, node):
        return untold

    def making(self, what):
        raise AssertionError

    def ended(self, node, record):
        pass

    def timings(self, nodes, *, again):
        self.rounds.append([])

    def timed(self, node, record):
        self.rounds[-1].append(f"{record['kind']} {node.recipe.stages[-1].main.name}")


def trust(busy):
    return {"contended": busy, "reason": "busy" if busy else ""}


def answer(job, turns_busy=False, latency_busy=False):
    """What a job that ends well measures."""
    if job.what == "turns":
        side = {"seconds": [1.0, 2.0], "trust": trust(turns_busy)}
        return Outcome("ok", measured={"ours": side, "theirs": {"seconds": [1.0, 1.0]}})
    if job.what == "serve":
        latency = {
            "batch": 1, "length": 16, "clock": "wall", "values": [1.0 + latency_busy], "threads": 1, "warmups": [], "loops": 1,
            "unit": "second",
        }  # fmt: skip
        return Outcome("ok", measured={"latency": [latency], "trust": {"latency": trust(latency_busy)}})
    training = {} if "magnitude" in job.recipe.split(" >> ")[-1] else {"training": TRAINED}
    return Outcome("ok", measured={**training, "trust": {"training": trust(False)}})


@pytest.fixture
def start(monkeypatch, tmp_path):
    def start(behave=answer, recipes=RECIPES, names=None, fresh=False, **keys):
        whole = make_plan(monkeypatch, recipes, **{"measure": {"turns": 2}, **keys})
        executor, told, store = Fake(behave), Told(), Store(tmp_path / "out")
        run(whole, names or set(recipes), store, executor, told, fresh=fresh)
        return executor, told, store

    return start


def timed(executor):
    return [f"{job.seed} {job.recipe.split(' >> ')[-1].split('(')[0]}" for job in executor.jobs if job.what == "turns"]


def test_each_training_takes_turns_once_with_the_baselines_of_its_seed(start):
    executor, told, store = start(seeds=[0, 1])
    # The baseline's own, which `int8` and `healed` begin with too, needs none.
    assert timed(executor) == ["0 head", "0 full", "1 head", "1 full"]
    assert told.rounds == [["turns head", "turns full"] * 2]
    taken = [each[-1] for of in store.read().turns.values() for each in of.values()]
    assert [each.ratio for each in taken] == [pytest.approx(2**0.5)] * 4
    turns = next(job for job in executor.jobs if job.what == "turns")
    assert turns.turns.recipe.startswith("full(")
    assert turns.turns.steps == 3  # of 0.02 s, for 0.05 s
    assert turns.turns.alive


def test_what_is_recorded_is_not_timed_again_unless_all_is(start):
    start()
    executor, _, _ = start()
    assert executor.jobs == []
    assert len(timed(start(fresh=True)[0])) == 2


def test_none_are_taken_where_the_suite_says_so_and_stages_stay_valid(start):
    executor, told, _ = start(lambda job: answer(job, latency_busy=True), measure={"turns": 0})
    assert timed(executor) == []
    assert told.rounds == []
    executor, _, _ = start()
    assert {job.what for job in executor.jobs} == {"turns"}


def test_a_training_begins_with_what_its_parent_left_which_is_kept_for_it(start):
    there = {}

    def behave(job):
        if job.what == "turns":
            there[job.recipe] = job.input is None or job.input.exists()
        return answer(job)

    _, _, store = start(behave)
    assert len(there) == 2
    assert all(there.values())
    assert checkpoint.present(store.folder) == set()


def test_where_a_model_is_gone_its_training_is_left_out(start):
    start(measure={"turns": 0})
    assert timed(start()[0]) == ["0 head"]


def test_what_only_some_recipes_need_is_timed(start):
    executor, _, _ = start(names={"full", "int8"})
    assert timed(executor) == []
    assert timed(start(names={"head"})[0]) == ["0 head"]


def test_without_the_baselines_result_there_are_no_turns(start):
    assert timed(start(names={"head"})[0]) == []


def test_what_several_processes_divide_takes_no_turns(start):
    recipes = {"full": "full", "two": "full + data_parallel(2)", "head": "head"}
    assert timed(start(recipes=recipes)[0]) == ["0 head"]


def test_busy_turns_are_taken_again_at_most_twice(start):
    number = []

    def behave(job):
        if job.what == "turns":
            number.append(job.node)
        # `head` is quiet the first time, so that the round mends something.
        return answer(job, turns_busy=not job.recipe.startswith("head"))

    _, told, store = start(behave)
    assert told.rounds == [
        ["turns head", "turns full"],
        ["turns full"],
    ]  # which mended nothing, so that it was the last
    start(behave)
    assert len(number) == 4
    start(behave)
    assert len(number) == 4
    (of,) = store.read().turns.values()
    assert sorted(len(each) for each in of.values()) == [1, 3]


def test_a_busy_latency_is_timed_again_and_its_model_kept_until_then(start):
    served = []

    def behave(job):
        if job.what == "serve":
            served.append(job.node)
            assert job.output.exists()
            assert job.uncompressed is None or job.uncompressed.exists()
        return answer(job, latency_busy="int8" in job.recipe and served.count(job.node) < 3)

    _, told, store = start(behave, measure={"turns": 2})
    assert told.rounds == [["turns head", "turns full", "node torch_int8_dynamic"], ["node torch_int8_dynamic"]]
    records = store.read()
    (again,) = [node for node in records.nodes.values() if node.retimed]
    assert again.retimed == 2
    assert again.latency[0].values == [1.0]
    assert again.trust.latency.against is None
    assert again.trust.training.against is None
    assert again["seconds"]["retimed"] >= 0
    assert checkpoint.present(store.folder) == set()
    assert start(behave)[0].jobs == []


def test_a_latency_that_cannot_be_timed_again_stays_as_it_was(start):
    served = []

    def behave(job):
        if job.what == "serve":
            served.append(job.node)
            if served.count(job.node) > 1:
                return Outcome("oom", "no memory")
        return answer(job, latency_busy=True)

    _, _, store = start(behave, recipes={"full": "full"})
    (node,) = store.read().nodes.values()
    assert node.status == "ok"
    assert node.retimed == 1
    assert node.latency[0].values == [2.0]
    assert node.absent is None


@pytest.mark.parametrize("moment", [1, 2])
def test_ctrl_c_loses_nothing_and_the_same_command_goes_on(start, moment):
    number = []

    def interrupted(job):
        if job.what == "turns":
            number.append(job.node)
            if len(number) == moment:
                raise KeyboardInterrupt
        return answer(job)

    with pytest.raises(KeyboardInterrupt):
        start(interrupted)
    executor, _, store = start()
    assert {job.what for job in executor.jobs} == {"turns"}
    assert len(executor.jobs) == 3 - moment
    (of,) = store.read().turns.values()
    assert [len(each) for each in of.values()] == [1, 1]
    assert checkpoint.present(store.folder) == set()


def test_a_failure_is_recorded_and_tried_again_by_the_next_run(start):
    def behave(job):
        return Outcome("failed", "so it goes") if job.what == "turns" and "head" in job.recipe else answer(job)

    _, told, store = start(behave)
    assert told.rounds == [["turns head", "turns full"]]
    lines = [json.loads(line) for line in store.file.read_text().splitlines()]
    assert [line["status"] for line in lines if line["kind"] == "turns"] == ["failed", "ok"]
    assert timed(start()[0]) == ["0 head"]


def test_where_memory_does_not_hold_both_one_comes_after_the_other(start):
    small = dataclasses.replace(HERE, memory=4 * 2**30)  # two processes of 2 GiB, and no room beside
    executor, _, _ = start(machine=small)
    assert [job.turns.alive for job in executor.jobs if job.turns] == [False, False]


def test_memory_that_runs_out_all_the_same_has_them_come_one_after_the_other(start):
    executor, _, store = start(
        lambda job: Outcome("oom", "no memory") if job.turns and job.turns.alive else answer(job),
        recipes={"full": "full", "head": "head"},
    )
    assert [job.turns.alive for job in executor.jobs if job.turns] == [True, False]
    ((taken,),) = [each for of in store.read().turns.values() for each in of.values()]
    assert taken.status == "ok"


def test_steps_of_no_time_are_one_a_turn(start):
    def behave(job):
        return Outcome("ok") if job.what != "turns" else answer(job)

    executor, _, _ = start(behave, recipes={"full": "full", "head": "head"})
    assert [job.turns.steps for job in executor.jobs if job.turns] == [1]
    assert timings.TURN_SECONDS > 0
