"""Sparsity that rises while training, against Zhu and Gupta's schedule by hand."""

import itertools

import pytest

from bench.models.architecture import block_linears
from bench.recipe import recipe
from bench.recipe.recipe import RecipeError
from tests.trainings import make


def target(text):
    (stage,) = recipe.parse(text).stages
    return stage.modifiers[0]


def test_the_amount_follows_the_cubic_schedule():
    gradual = target("full + gradual(magnitude(0.8), begin=0.2, end=0.8, every=1)")
    # Of 100 steps it rises over 60: a half of the way is 1 − (1/2)³ of it, a third 1 − (2/3)³.
    assert gradual.amount(50, 100) == pytest.approx(0.8 * (1 - 0.5**3))
    assert gradual.amount(40, 100) == pytest.approx(0.8 * (1 - (2 / 3) ** 3))
    assert gradual.amount(80, 100) == pytest.approx(0.8)
    assert gradual.amount(20, 100) is None
    assert gradual.amount(81, 100) is None


def test_it_prunes_now_and_then_and_at_the_end():
    gradual = target("full + gradual(magnitude(0.5), every=10)")
    due = [done for done in range(1, 101) if gradual.amount(done, 100) is not None]
    assert due == [10, 20, 30, 40, 50, 60, 70, 75]


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(RecipeError, match="`end` comes after `begin`"):
        target("full + gradual(magnitude(0.5), begin=0.5, end=0.5)")


def test_zeros_rise_step_by_step_and_stay(tiny_bert, tmp_path):
    training = make("full + gradual(magnitude(0.5), every=1)", tiny_bert, tmp_path)
    training.prepare()
    seen, zeros = [], []
    real = training.progress

    def look(what, done, of, figures):
        layers = block_linears(training.model).values()
        zeros.append([layer.weight == 0 for layer in layers])
        seen.append(sum(int(each.sum()) for each in zeros[-1]) / sum(each.numel() for each in zeros[-1]))
        real(what, done, of, figures)

    training.progress = look
    training.run()
    gradual = training.stage.modifiers[0]
    due = [gradual.amount(done, training.steps) for done in range(1, training.steps + 1)]
    amounts = [amount if amount is not None else 0.5 for amount in due]
    assert seen == pytest.approx(amounts, abs=2e-3)
    for early, late in itertools.pairwise(zeros):
        assert all(bool((late_layer | ~early_layer).all()) for early_layer, late_layer in zip(early, late, strict=True))
