"""What quality is to be seen beside: scored once, recorded, and no reason for a run to fail."""

import pytest

from bench.compare.compare import compare
from bench.execute import references
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.models.structure import Structure
from bench.plan import plan
from bench.record.reading import read
from bench.record.store import Store
from bench.testing.fake import Fake
from tests.bench.execute.test_run import Silent
from tests.subjects import NoModel, NoTask, make_plan

RECIPES = {"full": "full", "int8": "full >> torch_int8_dynamic"}


def behave(job):
    if job.what != "untrained":
        return Outcome("ok", measured={"quality": {"metrics": {"accuracy": 0.75}}})
    untrained = {"metrics": {"accuracy": 0.1 + job.seed / 100}}
    return Outcome("ok", measured={"chance": {"about": "a coin", "metrics": {"accuracy": 0.5}}, "untrained": untrained})


@pytest.fixture
def start(monkeypatch, tmp_path):
    monkeypatch.setattr(NoTask, "primary", "accuracy")
    monkeypatch.setattr(NoModel, "examine", lambda *_: Structure(head="new"))

    def start(behave=behave, **keys):
        whole = make_plan(monkeypatch, RECIPES, **{"seeds": [0, 1], "measure": {"latency": []}} | keys)
        executor, store, told = Fake(behave), Store(tmp_path), []
        run(whole, set(RECIPES), store, executor, Silent())
        failed = references.run(whole, store.read(), store, executor, told.append)
        return failed, [job for job in executor.jobs if job.what == "untrained"], told, whole

    return start


def test_each_seed_is_scored_once_and_beside_the_rows(start, tmp_path):
    failed, jobs, told, _ = start()
    assert (failed, [job.seed for job in jobs], told) == ([], [0, 1], ["2 untrained models to score"])
    (found,) = compare(read(tmp_path))
    chance, untrained = found.references
    assert (chance.name, chance.about, chance.figures["accuracy"].value) == ("chance", "A guess: a coin.", 0.5)
    assert untrained.figures["accuracy"].by_seed == {0: 0.1, 1: 0.11}
    assert untrained.figures["accuracy"].value == pytest.approx(0.105)
    assert {row.name for row in found.rows} == set(RECIPES)
    assert start()[1:3] == ([], [])


def test_a_failure_is_said_and_tried_again(start, tmp_path):
    failed, _, _, _ = start(lambda job: Outcome("oom", "too big") if job.what == "untrained" else behave(job))
    assert failed == [f"the untrained no-model on no-task, seed {n} was not scored: oom: too big" for n in (0, 1)]
    (found,) = compare(read(tmp_path))
    assert found.references == ()
    assert len(start()[1]) == 2


def test_an_error_of_the_files_around_it_is_a_failure(start):
    def broken(job):
        if job.what == "untrained":
            raise NotADirectoryError(20, "Not a directory", "logs/x")
        return behave(job)

    assert start(broken)[0][0].endswith("failed: around the job: [Errno 20] Not a directory: 'logs/x'")


def test_where_no_weight_is_new_one_seed_is_enough(start, monkeypatch):
    monkeypatch.setattr(NoModel, "examine", lambda *_: Structure(head="kept"))
    assert [job.seed for job in start()[1]] == [0]


def test_it_can_be_left_out_and_stages_are_the_same(start):
    _, jobs, _, whole = start(measure={"latency": [], "references": False})
    assert jobs == []
    _, jobs, _, other = start()
    assert whole.nodes.keys() == other.nodes.keys()
    assert len(jobs) == 2
    assert plan.references(whole) == {}
    _, jobs, _, _ = start(measure={"latency": [], "quality": False})
    assert jobs == []


def test_of_random_weights_there_is_none(start, monkeypatch):
    monkeypatch.setattr(NoModel, "pretrained", False)
    assert start()[1] == []
