"""Two real trainings in turns, of which one is slower by what is planted in it."""

import math
import multiprocessing.forkserver
from dataclasses import replace
from pathlib import Path

import pytest

from bench.execute.forkserver import ForkServer
from bench.measure.turns import log_ratio
from bench.recipe import recipe
from bench.record.schema import Turns as Taken
from bench.stage.job import Turns, untold
from bench.testing import jobs
from tests.packages import installed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "others_planted.py").write_text((Path(__file__).parent / "planted.py").read_text())
    # A process has one server of Python's, which other tests have started before the package was there, and use after.
    restarted = multiprocessing.forkserver._forkserver._stop
    with installed(folder, {"methodbench.methods": {"planted": "others_planted:Planted"}}):
        restarted()
        yield ForkServer()
        restarted()


@pytest.fixture
def take(server, tiny_bert, tmp_path):
    def take(ours, theirs, steps=2, alive=True):
        job = jobs.job(ours, tiny_bert, tmp_path, measure={"turns": 2})
        turns = Turns(recipe.parse(theirs).spell(defaults=True), steps, alive)
        return server.run(replace(job, what="turns", turns=turns), 120, untold)

    return take


@pytest.mark.parametrize("alive", [True, False])
def test_a_planted_slowdown_is_found_with_the_right_ratio(take, alive):
    # The tiny model itself takes a few milliseconds a step.
    found = take("full + planted(0.3)", "full + planted(0.1)", alive=alive)
    assert found.status == "ok", found
    line = Taken.of({"node": "a", "baseline": "b", "run": "r", "status": "ok", **found.measured})
    assert 2.2 < line.ratio < 3.1
    assert len(line.ours.seconds) == len(line.theirs.seconds) == 4
    assert (line.clock, line.steps, line.alive) == ("wall", 2, alive)
    # Sleeping takes no CPU time, which stands beside.
    assert math.exp(log_ratio(line.ours.cpu_seconds, line.theirs.cpu_seconds)) < 2
    assert {"waited_seconds", "contended"} <= found.measured["ours"]["trust"].keys()


def test_both_sides_draw_the_same_batches(take):
    measured = take("full + planted(0.1)", "full + planted(0.1)", steps=1).measured
    ratios = [
        ours / theirs for ours, theirs in zip(measured["ours"]["seconds"], measured["theirs"]["seconds"], strict=True)
    ]
    # The sleep is the same in each step, so that seconds a token tell how many tokens there were: 10 to 30.
    assert max(ratios) < 1.5 * min(ratios)
    assert max(measured["ours"]["seconds"]) > 1.02 * min(measured["ours"]["seconds"])


def test_a_side_may_have_more_steps_than_its_budget(take):
    found = take("full(share=0.2)", "full", steps=20)
    assert found.status == "ok", found
    assert len(found.measured["ours"]["seconds"]) == 4


@pytest.mark.parametrize("dies", [0, 5])
def test_a_side_that_dies_is_the_end_and_says_so(take, dies):
    found = take(f"full + planted(0.0, {dies})", "full")
    assert (found.status, found.reason) == ("failed", "the training: the process ended with status 7 and no result")
    assert "ours" not in found.measured


def test_a_side_that_fails_has_its_status_and_reason(take):
    found = take("full(lr=1e30)", "full", steps=50)
    assert found.status == "diverged", found
    assert "the loss is" in found.reason
