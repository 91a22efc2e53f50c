"""Trials of learning rates: which run, what is chosen, and that the recipes run with it."""

import math

import pytest

from bench.compare.compare import compare
from bench.compare.doubts import NoTrial
from bench.execute import tune
from bench.execute.base import Outcome
from bench.execute.run import run
from bench.record.store import Store
from bench.testing.fake import Fake
from tests.bench.execute.test_run import Silent
from tests.subjects import NoTask, make_plan

RATES = [1e-4, 1e-3, 1e-2, 1e-1]
RECIPES = {"full": "full", "head": "head", "small": "full >> bnb_int8", "plain": "bnb_int8"}
BEST = {"full": 1e-4, "head": 1e-2}
"""The rate at which a recipe scores best; at .1 training diverges."""


def lr_of(job):
    return float(job.recipe.partition("lr=")[2].partition(",")[0])


def score(job):
    first = job.recipe.partition("(")[0]
    return 0.9 - abs(math.log10(lr_of(job) / BEST.get(first, 1e-3))) / 10 if "lr=" in job.recipe else 0.1


def behave(job):
    if "lr=" in job.recipe and lr_of(job) == 0.1:
        return Outcome("diverged", "the loss is nan at step 2 of 4")
    measured = {"quality": {"metrics": {"accuracy": score(job)}}, "seconds": {"train": 2.0}}
    return Outcome("ok", measured=measured if job.what == "stage" else {})


@pytest.fixture
def start(monkeypatch, tmp_path):
    monkeypatch.setattr(NoTask, "primary", "accuracy")

    def start(behave=behave, recipes=RECIPES, names=None, fresh=False, rates=RATES, **keys):
        whole = make_plan(
            monkeypatch,
            recipes,
            tune={"lr": rates, "steps": 4},
            seeds=[0, 1],
            measure={"latency": [], "turns": 0},
            **keys,
        )
        store, executor, names = Store(tmp_path / "out"), Fake(behave), names or set(recipes)
        grid = tune.grid(whole)

        def carry_out(part, names, ran):
            return run(part, names, store, executor, Silent(), fresh=fresh, ran=ran, tuning=None)

        found = tune.run(grid, names, store.read, carry_out, fresh=fresh)
        tried = len(executor.jobs)
        result = run(tune.tuned(whole, found), names, store, executor, Silent(), fresh=fresh, tuning=found)
        return found, result, executor.jobs[:tried], executor.jobs[tried:], store

    return start


def test_every_recipe_that_trains_has_each_rate_once_with_the_first_seed_and_shares_what_it_can(start):
    _, _, trials, _, _ = start()
    assert {job.seed for job in trials} == {0}
    assert [lr_of(job) for job in trials if ">>" not in job.recipe and job.recipe.startswith("full")] == RATES
    assert [lr_of(job) for job in trials if job.recipe.startswith("head")] == RATES
    assert [lr_of(job) for job in trials if ">>" in job.recipe] == RATES[:3]  # nothing stands on what diverged
    assert not [job for job in trials if "lr=" not in job.recipe]


def test_a_trial_has_its_own_steps_and_is_scored_on_the_validation_split_alone(start):
    _, _, trials, after, _ = start()
    assert {(job.budget.steps, job.measure.split) for job in trials} == {(4, "validation")}
    assert {(job.budget.steps, job.measure.split) for job in after} == {(60, "test")}
    asked = trials[0].measure
    assert not any([asked.memory, asked.size, asked.flops, asked.latency, asked.turns, asked.references])


def test_the_best_rate_is_what_every_seed_of_the_recipe_runs_with(start):
    found, result, _, after, _ = start()
    assert {each.name: each.lr for each in found} == {"full": 1e-4, "head": 1e-2, "small": 1e-4}
    assert result.ok
    trained = {(job.recipe.partition("(")[0], lr_of(job), job.seed) for job in after if "lr=" in job.recipe}
    assert trained == {("full", 1e-4, 0), ("full", 1e-4, 1), ("head", 1e-2, 0), ("head", 1e-2, 1)}


def test_of_equal_scores_the_lowest_rate_is_taken(start):
    found, *_ = start(lambda job: Outcome("ok", measured={"quality": {"metrics": {"accuracy": 0.5}}}))
    assert {each.lr for each in found} == {1e-4}


def test_where_lower_is_better_the_lowest_score_is_taken(start, monkeypatch):
    monkeypatch.setattr(NoTask, "primary", "perplexity")

    def worse(job):
        return Outcome(
            "ok", measured={"quality": {"metrics": {"perplexity": lr_of(job) if "lr=" in job.recipe else 1}}}
        )

    found, *_ = start(worse)
    assert {each.lr for each in found} == {1e-4}


def test_nothing_of_it_runs_again_not_even_what_diverged(start):
    start()
    _, result, trials, after, _ = start()
    assert trials == after == []
    assert result.ok


def test_a_rate_that_is_added_alone_is_tried(start):
    start()
    _, _, trials, _, _ = start(rates=[*RATES, 0.3])
    assert {lr_of(job) for job in trials} == {0.3}


def test_a_trial_that_failed_is_tried_again(start):
    def failing(job):
        return Outcome("failed", "no memory") if "lr=0.001" in job.recipe and job.budget.steps == 4 else behave(job)

    found, *_ = start(failing)
    assert {each.name: each.lr for each in found}["full"] == 1e-4
    _, _, trials, _, _ = start()
    assert {lr_of(job) for job in trials} == {0.001}


def test_where_no_trial_ends_ok_the_recipe_has_its_own_rate(start):
    def failing(job):
        return Outcome("failed", "no") if job.budget.steps == 4 else Outcome("ok")

    found, result, _, after, store = start(failing)
    assert {each.lr for each in found} == {None}
    assert result.ok
    assert {lr_of(job) for job in after if job.recipe.startswith("full")} == {2e-4}
    (comparison,) = compare(store.read())
    assert [doubt.recipe for doubt in comparison.doubts if isinstance(doubt, NoTrial)] == ["full", "head", "small"]


def test_trials_are_no_rows_of_a_report_and_no_run_of_the_records(start):
    *_, store = start()
    records = store.read()
    assert [run.title for run in records.runs] == ["methodbench"]
    (found,) = compare(records)
    assert {row.name for row in found.rows} == set(RECIPES)


def test_a_report_has_the_whole_curve_what_it_cost_and_the_edge(start):
    *_, store = start()
    (found,) = compare(store.read())
    full, head, small = found.tunings
    assert [(trial.lr, trial.status) for trial in full.trials] == [
        (1e-4, "ok"), (1e-3, "ok"), (1e-2, "ok"), (1e-1, "diverged"),
    ]  # fmt: skip
    assert [trial.value for trial in full.trials] == pytest.approx([0.9, 0.8, 0.7, None], nan_ok=True)
    assert (full.edge, full.beyond) == ("lowest", (1e-5, 1e-6))
    assert (head.edge, head.beyond) == ("", ())
    nodes = store.read().nodes
    by_hand = sum(nodes[trial.node]["seconds"]["total"] for trial in store.read().runs[0].tuning[0].trials)
    assert full.seconds == pytest.approx(by_hand)
    # A recipe that goes on from a stage needs that stage's time, too.
    assert small.trials[0].seconds > nodes[store.read().runs[0].tuning[2].trials[0].node]["seconds"]["total"]


def test_the_edges_rates_go_on_as_the_grid_does(start):
    def rising(job):
        return Outcome(
            "ok", measured={"quality": {"metrics": {"accuracy": min(0.9, lr_of(job)) if "lr=" in job.recipe else 0}}}
        )

    *_, store = start(rising, rates=[1e-3, 3e-3, 1e-2])
    tuning = compare(store.read())[0].tunings[0]
    assert (tuning.edge, tuning.beyond) == ("highest", (0.033, 0.11))
    assert str(tuning) == (
        "lr 0.01, with a validation accuracy of 0.010; that is the highest rate tried: add 0.033, 0.11"
    )


def test_fresh_tries_all_again(start):
    start()
    _, _, trials, after, _ = start(fresh=True)
    assert len(trials) == 11
    assert after


def test_models_of_others_are_not_removed_by_trials(start, tmp_path):
    start()
    other = tmp_path / "out" / "checkpoints" / "of-another-plan.pt"
    other.write_bytes(b"")
    there = []

    def looking(job):
        there.append(other.exists())
        return behave(job)

    start(looking, rates=[*RATES, 0.3])
    assert there == [True, True, True]  # full, head, and what stands on full


def test_recipes_that_are_not_asked_for_keep_their_rates_and_their_results(start):
    start()
    found, _, trials, after, store = start(names={"head"})
    assert trials == after == []
    assert {each.name: each.lr for each in found} == {"full": 1e-4, "head": 1e-2, "small": 1e-4}
    (comparison,) = compare(store.read())
    assert all(row.ok for row in comparison.rows)


def test_only_what_is_asked_for_is_tried(start):
    found, _, trials, _, _ = start(names={"head"})
    assert {job.recipe.partition("(")[0] for job in trials} == {"head"}
    assert [each.name for each in found] == ["head"]
