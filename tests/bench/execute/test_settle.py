"""Rounds of a run that adds seeds: who gets which, when it stops, and that it goes on where it was."""

import itertools
import random

import pytest

import bench
from bench.compare.compare import compare
from bench.compare.looks import looks
from bench.execute import settle
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.execute.settle import seeds, within
from bench.record.store import Store
from bench.suite.suite import SuiteError
from bench.testing.fake import Fake
from tests.bench.execute.test_run import Silent
from tests.subjects import NoTask, make_plan

ITEMS = 400
RECIPES = {"full": "full", "same": "full >> torch_int8_dynamic", "worse": "head", "open": "lora", "items": "bitfit"}
EVERY = looks(3)
TABLE = {"model": "minilm", "task": "stdlib-topics", "recipes": {"full": "full", "head": "head"}}


LOST = {"head": (30, 50, 40, 40, 41, 39), "lora": (40, -40), "bitfit": (6,)}
"""How many of the items a recipe loses to the baseline, or wins, for each seed in turn; bitfit loses some and wins others."""


def right(job):
    """Which items a recipe gets right: those of another place for each seed, but bitfit always the same."""
    full = [int((item + (job.seed if item >= 18 else 0)) % 4 > 0) for item in range(ITEMS)]
    stage = job.recipe.partition("(")[0]
    lost = LOST.get(stage, (0,))
    many = lost[job.seed % len(lost)]
    if stage == "bitfit":
        return [1 - one if item < 3 * many else one for item, one in enumerate(full)]
    order = random.Random(f"{stage}{job.seed}").sample(
        [item for item in range(ITEMS) if full[item] == (many > 0)], abs(many)
    )
    return [1 - one if item in order else one for item, one in enumerate(full)]


def behave(job):
    correct = right(job)
    metrics = {"accuracy": sum(correct) / ITEMS, "macro_f1": 0.5}
    return Outcome("ok", measured={"quality": {"metrics": metrics, "correct": correct}} if job.what == "stage" else {})


def broken_at(moment):
    calls = itertools.count()

    def broken(job):
        if next(calls) == moment:
            raise KeyboardInterrupt
        return behave(job)

    return broken


@pytest.fixture
def settled(monkeypatch, tmp_path):
    monkeypatch.setattr(NoTask, "primary", "accuracy")

    def start(behave=behave, names=tuple(RECIPES), most=8, folder="out", fresh=False):
        at = within(EVERY, 3, most)
        whole = make_plan(monkeypatch, RECIPES, seeds=seeds([0, 1, 2], at[-1]), measure={"latency": [], "turns": 0})
        store, executor, told = Store(tmp_path / folder), Fake(behave), []

        def carry_out(part, ran):
            return run(part, set(names), store, executor, Silent(), fresh=fresh, ran=ran, looks=EVERY)

        result = settle.run(whole, names, at, store.read().ok, carry_out, told.append)
        return result, executor, store, told

    return start


def ran(executor):
    found = {}
    for job in executor.jobs:
        found.setdefault(job.recipe.rpartition(" >> ")[2].partition("(")[0], []).append(job.seed)
    return found


def verdicts(store):
    (found,) = compare(store.read())
    return {row.name: row.changes["accuracy"].verdict for row in found.rows if "accuracy" in row.changes}


def test_only_what_is_not_settled_gets_seeds_and_the_baseline_with_it(settled):
    result, executor, store, told = settled()
    more = list(range(8))
    assert ran(executor) == {
        "full": more, "torch_int8_dynamic": [0, 1, 2], "head": [0, 1, 2, 3, 4], "lora": more, "bitfit": [0, 1, 2],
    }  # fmt: skip
    assert verdicts(store) == {"same": "same", "worse": "worse", "open": "not settled", "items": "not settled"}
    assert (result.ok, result.asked, len(result.statuses)) == (True, 8 + 3 + 5 + 8 + 3, 8 + 3 + 5 + 8 + 3)
    assert told == [
        "Settled in accuracy: 1 of 4 recipes.",
        "Not settled, and no number of seeds would do, but more test items: items.",
        "Not settled: open, worse. They and the baseline full get seeds 3, 4.",
        "Settled in accuracy: 2 of 4 recipes.",
        "Not settled: open. They and the baseline full get seeds 5, 6, 7.",
        "Settled in accuracy: 2 of 4 recipes.",
        "Not settled with the most seeds that a recipe may have: open.",
    ]
    assert store.read().runs[-1]["settle"] == {"looks": [3, 5, 8, 12, 18]}


def test_the_same_command_goes_on_wherever_it_was_broken_off(settled):
    _, whole, _, told = settled()
    wanted, lines = ran(whole), told
    for moment in (2, 15, 19, 25):
        with pytest.raises(KeyboardInterrupt):
            settled(broken_at(moment), folder=str(moment))
        _, again, store, told = settled(folder=str(moment))
        assert told == lines
        assert len(again.jobs) < len(whole.jobs)
        assert verdicts(store) == {"same": "same", "worse": "worse", "open": "not settled", "items": "not settled"}
        _, nothing, _, told = settled(folder=str(moment))
        assert (nothing.jobs, told) == ([], lines)
    _, again, _, told = settled(folder="2", fresh=True)
    assert (ran(again), told) == (wanted, lines)


def test_what_was_broken_off_inside_a_round_is_decided_at_the_look_before(settled):
    def broken(job):
        if job.seed == 4 and "lora" in job.recipe:
            raise KeyboardInterrupt
        return behave(job)

    with pytest.raises(KeyboardInterrupt):
        settled(broken)
    _, _, store, _ = settled(most=5, folder="reference")
    (reference,), (found,) = compare(store.read()), compare(Store(store.folder.parent / "out").read())
    changes = {row.name: row.changes["accuracy"] for row in found.rows[1:]}
    three = reference.seeds[:3]
    first = next(row for row in found.rows if row.name == "open")
    assert changes["open"].value == pytest.approx(
        sum(first.figures["accuracy"].by_seed[s] - found.rows[0].figures["accuracy"].by_seed[s] for s in three) / 3
    )


def test_more_seeds_may_be_allowed_later_and_nothing_that_is_settled_changes(settled):
    _, _, store, _ = settled(most=5)
    before = verdicts(store)
    _, executor, store, _ = settled(most=12)
    after = verdicts(store)
    assert {name: after[name] for name, each in before.items() if each != "not settled"} == {
        name: each for name, each in before.items() if each != "not settled"
    }
    assert {job.seed for job in executor.jobs} == set(range(5, 12))


def test_a_recipe_that_failed_gets_no_seeds_and_costs_the_others_nothing(settled):
    def fails(job):
        return Outcome("diverged", "nan") if job.recipe.startswith("lora") and job.seed == 1 else behave(job)

    result, executor, _, told = settled(fails)
    assert (result.ok, ran(executor)["lora"], ran(executor)["head"]) == (False, [0, 1, 2], [0, 1, 2, 3, 4])
    assert told[0] == "Settled in accuracy: 1 of 3 recipes."


def test_without_a_baseline_that_ended_ok_nothing_is_added(settled):
    _, executor, _, told = settled(
        lambda job: Outcome("failed", "no") if job.recipe.startswith("full") else behave(job)
    )
    assert {job.seed for job in executor.jobs} == {0, 1, 2}
    assert told == ["Settled in accuracy: 0 of 0 recipes."]


def test_what_is_not_named_keeps_the_seeds_that_it_has(settled):
    settled(most=5)
    _, executor, store, _ = settled(most=8, names=["full", "same"])
    assert executor.jobs == []
    assert verdicts(store)["worse"] == "worse"
    (found,) = compare(store.read())
    assert {row.name: len(row.seeds) for row in found.rows} == {"full": 5, "same": 3, "worse": 5, "open": 5, "items": 3}


def test_seeds_are_the_suites_and_then_the_smallest_others():
    assert seeds([0, 1, 2], 5) == [0, 1, 2, 3, 4]
    assert seeds([7, 1], 5) == [7, 1, 0, 2, 3]


def test_looks_are_within_the_most_seeds_and_there_is_one_after_the_first():
    assert within(EVERY, 3, 11) == (3, 5, 8)
    assert within(EVERY, 3, None) == (3, 5, 8, 12)
    assert within(looks(10), 10, None) == (10, 15)
    for most, said in ((2, "has 3 seeds already; give 5 to 18"), (4, "after 3, 5, 8, 12 and 18"), (19, "give 5 to 18")):
        with pytest.raises(SuiteError, match=f"--max-seeds {most}: .*{said}"):
            within(EVERY, 3, most)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"settle": False, "max_seeds": 8}, "--max-seeds: it bounds the seeds that --settle adds"),
        ({"max_seeds": 2}, "--max-seeds 2: the suite has 5 seeds already; give 8 to 27"),
        ({"only": "head"}, "--settle: recipes are compared with full, which --only leaves out; add --only full"),
        ({"only": "full"}, "--settle: there is no recipe to compare with full"),
        ({"suite": {**TABLE, "measure": {"quality": False}}}, r"none is measured: \[measure\] has quality = false"),
    ],
)
def test_mistakes_are_said_before_anything_runs(keys, said, tmp_path):
    with pytest.raises(SuiteError, match=said):
        bench.run(**({"suite": "encoder", "settle": True, "out": tmp_path / "out"} | keys))
    assert not (tmp_path / "out").exists()
