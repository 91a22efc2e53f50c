"""The [tune] table, and what goes with it in a suite."""

import pytest

from bench.suite.suite import SuiteError, of

RECIPES = {"full": "full", "pruned": "full >> magnitude(0.5) >> full(share=0.3)", "small": "full >> bnb_int8"}


def suite(**keys):
    return of({"model": "m", "task": "t", "recipes": RECIPES, "tune": {"lr": [1e-3, 1e-5, 1e-4]}, **keys})


def test_rates_are_in_order_and_steps_are_the_budgets_unless_said():
    assert suite().tune.lr == [1e-5, 1e-4, 1e-3]
    assert suite().tune.steps is None
    assert suite(tune={"lr": [1, 2], "steps": 7}).tune.steps == 7


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tune": {"lr": [1e-3]}}, "tune.lr: list should have at least 2 items"),
        ({"tune": {"lr": [1e-3, 1e-3]}}, "tune.lr: each rate is named once"),
        ({"tune": {"lr": [1e-3, 0]}}, "tune.lr.1: input should be greater than 0, found 0"),
        ({"tune": {"lr": ["1e-3", 1e-4]}}, "tune.lr.0: input should be a valid number, found '1e-3'"),
        ({"tune": {"lr": [1e-3, 1e-4], "step": 3}}, "tune.step: unknown key; did you mean `steps`?"),
        ({"tune": {"lr": [1e-3, 1e-4], "by": "test"}}, "tune.by: input should be 'validation', found 'test'"),
        ({"measure": {"quality": False}}, "tune: quality decides between learning rates"),
        ({"recipes": {"a": "full(lr=0.1)"}}, "recipes.a: full has lr=0.1, and [tune] chooses"),
        ({"recipes": {"a": 'full + optimizer("sgd", lr=0.1)'}}, "recipes.a: optimizer has lr=0.1"),
        ({"defaults": {"full": {"lr": 0.1}}}, "recipes.full: full has lr=0.1, and [tune] chooses"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(keys, said):
    with pytest.raises(SuiteError) as error:
        suite(**keys)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"epochs": 2, "steps": 5}, "budget: epochs: it stands instead of `steps`; give one of the two"),
        ({"load_best_model_at_end": True}, "budget: load_best_model_at_end: nothing is scored while it trains"),
        ({"epochs": 0}, "budget.epochs: input should be greater than 0"),
        ({"eval_steps": 0}, "budget.eval_steps: input should be greater than or equal to 1"),
    ],
)
def test_a_budget_that_says_two_things_is_refused(budget, said):
    with pytest.raises(SuiteError) as error:
        suite(budget=budget)
    assert said in str(error.value)


def test_an_epoch_is_each_item_once_and_the_last_step_is_whole():
    budget = suite(budget={"epochs": 2, "batch_size": 8}).budget
    assert budget.optimizer_steps(80) == 20
    assert budget.optimizer_steps(81) == 21  # 162 items in batches of 8: 20.25
    assert suite(budget={"steps": 7}).budget.optimizer_steps(81) == 7


def test_a_rate_is_that_of_every_trainer_of_a_recipe_and_of_nothing_else():
    parsed = suite().parsed()
    assert str(parsed["pruned"].with_lr(0.5)) == "full(lr=0.5) >> magnitude(amount=0.5) >> full(lr=0.5, share=0.3)"
    assert str(parsed["small"].with_lr(0.5)) == "full(lr=0.5) >> bnb_int8"
    peft = of({"model": "m", "task": "t", "recipes": {"v": 'peft("VERA", r=8) + accumulate(2)'}}).parsed()["v"]
    assert str(peft.with_lr(0.5)) == 'peft(method="VERA", r=8, lr=0.5) + accumulate(k=2)'
