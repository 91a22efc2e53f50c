"""Whose checkpoints stay: ``[measure] keep``."""

import pytest

from bench.execute.base import Outcome
from bench.execute.keep import Kept, kept
from bench.execute.run import run
from bench.record.store import Store
from bench.stage import checkpoint
from bench.testing.fake import Fake
from tests.bench.execute.test_run import Silent
from tests.subjects import NoTask, make_plan

RECIPES = {"full": "full", "int8": "full >> torch_int8_dynamic", "lora": "lora(r=2)", "bad": "merge"}


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Run the recipes, each with an accuracy, and remove what no longer stays, as :mod:`bench.execute.suites` does."""
    monkeypatch.setattr(NoTask, "primary", "accuracy")

    def start(accuracy, keep, seeds=(0, 1), names=None, again=(), **keys):
        def behave(job):
            value = next(value for recipe, value in accuracy.items() if job.recipe.startswith(recipe))
            metrics = {"accuracy": value + job.seed / 100}
            return Outcome("ok", measured={"quality": {"metrics": metrics}} if job.what == "stage" else {})

        whole = make_plan(
            monkeypatch, RECIPES, seeds=list(seeds), measure={"keep": keep, "latency": [], "turns": 0, **keys}
        )
        executor, store = Fake(behave), Store(tmp_path / "out")
        before = kept(whole, store.read, names=again)
        result = run(whole, names or set(RECIPES), store, executor, Silent(), keep=before)
        over = kept(whole, store.read, names=again, over=True)
        checkpoint.remove(store.folder, before.stay - over.stay - result.needed)
        ends = {cell.path[-1].id: (cell.name, cell.seed) for cell in whole.cells}
        return sorted(ends[node] for node in checkpoint.present(store.folder)), [job.recipe for job in executor.jobs]

    return start


BY_RECIPE = {"full(lr=0.0002, share=1.0) >> torch": 0.6, "full": 0.7, "lora": 0.8}


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (None, []),
        ([], []),
        (["int8"], [("int8", 0), ("int8", 1)]),
        ("best", [("lora", 0), ("lora", 1)]),
        ("all", [(name, seed) for name in ("full", "int8", "lora") for seed in (0, 1)]),
    ],
)
def test_the_models_that_the_suite_names_stay(keep, stay, start):
    found, jobs = start(BY_RECIPE, keep)
    assert found == stay
    assert len(jobs) == 6


def test_until_the_run_is_over_any_recipe_may_be_the_best(monkeypatch, tmp_path):
    whole = make_plan(monkeypatch, RECIPES, seeds=[0, 1], measure={"keep": "best"})
    found = kept(whole, Store(tmp_path).read)
    assert found.wanted == frozenset()
    assert found.stay == {cell.path[-1].id for cell in whole.cells if cell.name != "bad"}


def test_what_is_kept_already_runs_no_second_time(start):
    start(BY_RECIPE, "best")
    found, jobs = start(BY_RECIPE, "best")
    assert (found, jobs) == ([("lora", 0), ("lora", 1)], [])


def test_no_record_depends_on_it_but_a_kept_recipe_whose_checkpoint_is_gone_runs_again(start):
    start(BY_RECIPE, None)
    found, jobs = start(BY_RECIPE, ["int8"], seeds=(0,))
    assert found == [("int8", 0)]
    assert [job.split("(")[0] for job in jobs] == ["full", "full"]  # what int8 begins with, and int8
    _, jobs = start(BY_RECIPE, None)
    assert jobs == []


def test_the_best_of_what_is_recorded_runs_again_alone(start):
    start(BY_RECIPE, None)
    found, jobs = start(BY_RECIPE, "best")
    assert found == [("lora", 0), ("lora", 1)]
    assert {job.split("(")[0] for job in jobs} == {"lora"}


def test_a_run_of_some_recipes_leaves_what_is_kept_of_others(start):
    start(BY_RECIPE, ["lora"])
    found, _ = start(BY_RECIPE, ["lora"], seeds=(0, 1, 2), names={"full"})
    assert found == [("lora", 0), ("lora", 1)]


def test_who_asks_for_one_recipe_keeps_the_best_too(start):
    start(BY_RECIPE, "best")
    found, _ = start(BY_RECIPE, "best", again=["full"])
    assert found == [("full", 0), ("full", 1), ("lora", 0), ("lora", 1)]


def test_where_nothing_is_the_best_all_stay(start, monkeypatch):
    monkeypatch.setattr("bench.execute.keep.compare", lambda records: [])
    found, _ = start(BY_RECIPE, "best")
    assert len(found) == 6


def test_seeds_keep_every_stage(monkeypatch, tmp_path):
    whole = make_plan(monkeypatch, RECIPES, seeds=[0, 1])
    found = kept(whole, Store(tmp_path).read, seeds=[1])
    assert found == Kept(*[frozenset(node.id for node in whole.nodes.values() if node.seed == 1)] * 2)
