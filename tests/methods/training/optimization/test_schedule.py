"""Rates of learning by hand, and against transformers' own on a real optimizer."""

import math

import pytest
import torch

from bench.recipe import recipe
from tests import jobs
from tests.trainings import claims, make, prepared


def rates(training):
    """The rate at each of the optimizer's steps."""
    seen = []
    step = training.optimizer.step
    training.optimizer.step = lambda: (seen.append(training.optimizer.param_groups[0]["lr"]), step())
    training.run()
    del training.optimizer.step
    return seen


@pytest.mark.parametrize(
    ("modifier", "shares"),
    [
        ('schedule("linear")', [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ('schedule("linear", warmup=0.4)', [0, 1 / 2, 1, 2 / 3, 1 / 3]),
        ('schedule("linear", warmup=0.3)', [0, 1 / 2, 1, 2 / 3, 1 / 3]),  # a part of a step is a step
        ('schedule("cosine")', [(1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]),
        (
            'schedule("cosine", warmup=0.2)',
            [0, 1, (1 + math.cos(math.pi / 4)) / 2, 1 / 2, (1 - math.cos(math.pi / 4)) / 2],
        ),
        ('schedule("constant", warmup=0.4)', [0, 1 / 2, 1, 1, 1]),
    ],
)
def test_rates_by_hand(tiny_bert, tmp_path, modifier, shares):
    training = prepared(f"full(lr=0.01) + {modifier}", tiny_bert, tmp_path, steps=5)
    assert rates(training) == pytest.approx([0.01 * share for share in shares])
    found = claims(training)
    assert all(holds for holds, _ in found.values()), found


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_rates_are_those_of_transformers(tiny_bert, tmp_path, name):
    import transformers

    training = prepared(f'full + schedule("{name}", warmup=0.1)', tiny_bert, tmp_path, steps=11)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=11)
    theirs = []
    for _ in range(11):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(training) == theirs


def test_a_share_of_the_steps_is_all_there_is(tiny_bert, tmp_path):
    training = prepared('full(lr=1.0, share=0.5) + schedule("linear")', tiny_bert, tmp_path, steps=6)
    for parameter in training.parameters:
        parameter.requires_grad_(False)
    training.gradients = lambda batch, scale: torch.zeros(())
    assert rates(training) == pytest.approx([1, 2 / 3, 1 / 3])


def test_every_group_keeps_its_own_rate(tiny_bert, tmp_path):
    training = make('full + schedule("linear") + weight_decay(0.1) + optimizer("muon", lr=0.002)', tiny_bert, tmp_path)
    training.prepare()
    training.run()
    assert len(training.optimizer.param_groups) == 3
    assert all(group["initial_lr"] == 0.002 and group["lr"] == 0 for group in training.optimizer.param_groups)


def test_a_rate_that_something_else_sets_is_seen(tiny_bert, tmp_path):
    training = prepared('full + schedule("linear")', tiny_bert, tmp_path)
    training.run()
    training.optimizer.param_groups[0]["lr"] = 1e-4
    assert [holds for text, (holds, _) in claims(training).items() if "rate" in text] == [False, True]


def test_a_schedule_steps_also_where_fp16_leaves_a_step_out(tiny_bert, tmp_path):
    status, reason, _ = jobs.run('full + schedule("linear") + mixed_precision("fp16")', tiny_bert, tmp_path)
    assert status == "ok", reason


@pytest.mark.parametrize(
    ("text", "steps", "reason"),
    [
        ('full + schedule("constant")', 10, "a constant rate with no warm-up"),
        ('full(share=0.1) + schedule("linear", warmup=0.5)', 10, "all of the training's 1 steps would be warm-up"),
        ('full + schedule("linear", warmup=0.95)', 10, "all of the training's 10 steps would be warm-up"),
    ],
)
def test_refusals(text, steps, reason, plan_context):
    (stage,) = recipe.parse(text).stages
    (problem,) = stage.modifiers[0].problems(plan_context(text, steps=steps))
    assert problem.startswith(reason)
