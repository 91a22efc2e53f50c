"""Contrastive losses against hand computations."""

import math
import pickle

import pytest
import torch

from bench.models.architecture import body
from bench.plan import refusals
from bench.plan.context import PlanContext
from bench.recipe import recipe
from bench.stage.work import Work
from bench.tasks.base import Batch
from bench.tasks.kinds.classification import Classification
from bench.tasks.kinds.language_modelling import LanguageModelling
from bench.testing import jobs
from methods.training.objectives.contrastive import pooled, simcse, supcon
from tests import architectures
from tests.subjects import HERE
from tests.trainings import gradient, prepared

# Four items at 0, 90, 180 and 60 degrees; their cosines are 0, −1, 1/2, √3/2 and −1/2.
UNITS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, math.sqrt(3) / 2]])


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def test_supcon_of_four_items_by_hand():
    # Items 0, 1 and 3 have one label, and item 2 is alone with its.
    e = math.exp
    zero = e(0), e(-2), e(1)  # of item 0 with 1, 2 and 3, over a temperature of 1/2
    one = e(0), e(0), e(math.sqrt(3))  # of item 1 with 0, 2 and 3
    three = e(1), e(math.sqrt(3)), e(-1)  # of item 3 with 0, 1 and 2
    expected = -(
        (math.log(zero[0] / sum(zero)) + math.log(zero[2] / sum(zero))) / 2
        + (math.log(one[0] / sum(one)) + math.log(one[2] / sum(one))) / 2
        + (math.log(three[0] / sum(three)) + math.log(three[1] / sum(three))) / 2
    )
    seen = supcon(UNITS, torch.tensor([5, 5, 0, 5]), 0.5)
    assert float(seen) == pytest.approx(expected / 4, rel=1e-5)


def test_supcon_of_items_that_are_all_alone_is_nothing():
    units = UNITS.clone().requires_grad_()
    loss = supcon(units, torch.arange(4), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(units.grad, torch.zeros(4, 2))


def test_simcse_of_four_items_by_hand():
    other = UNITS.roll(1, 0)  # the second view of item 0 is at 60 degrees, of item 1 at 0, …
    cosines = [[0.5, 1, 0, -1], [math.sqrt(3) / 2, 0, 1, 0], [-0.5, -1, 0, 1], [1, 0.5, math.sqrt(3) / 2, -0.5]]
    expected = 0.0
    for item, row in enumerate(cosines):
        weights = [math.exp(cosine / 0.5) for cosine in row]
        expected -= math.log(weights[item] / sum(weights)) / 4
    assert float(simcse(UNITS, other, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_pooling_is_the_mean_over_real_tokens():
    states = torch.tensor([[[9.0, 9.0], [3.0, 0.0], [1.0, 4.0], [7.0, 7.0]]])
    inputs = {"attention_mask": torch.tensor([[1, 1, 0]])}
    batch = Batch(inputs, torch.tensor([0]), (2,), (1,), (0,))
    # The first state is a prompt's, the last one padding's; the others' mean is (2, 2).
    assert torch.allclose(pooled(states, batch), torch.tensor([[1.0, 1.0]]) / math.sqrt(2))


def views(training):
    """Unit vectors of the probe's items, pooled item by item from what the body gives."""
    states = body(training.model)(**training.probe.inputs).last_hidden_state
    means = [state[:length].mean(0) for state, length in zip(states, training.probe.lengths, strict=True)]
    return torch.stack([mean / mean.norm() for mean in means])


def test_supcon_is_added_with_its_weight(model, tmp_path):
    training = prepared('full + contrastive("supcon", weight=0.7, temperature=0.2)', model, tmp_path)
    with torch.no_grad():
        torch.manual_seed(3)
        seen = float(training.loss(training.probe))
        torch.manual_seed(3)
        plain = float(training._loss(training.probe))
        torch.manual_seed(3)
        added = 0.7 * float(supcon(views(training), training.probe.labels, 0.2))
    assert added > 0.1
    assert seen == pytest.approx(plain + added, rel=1e-5)


def test_simcse_is_added_with_its_weight_of_two_passes(tiny_bert, tmp_path):
    training = prepared('full + contrastive("simcse", weight=0.7)', tiny_bert, tmp_path)
    with torch.no_grad():
        torch.manual_seed(3)
        seen = float(training.loss(training.probe))
        torch.manual_seed(3)
        plain = float(training._loss(training.probe))
        second_begins = torch.get_rng_state()
        torch.manual_seed(3)
        first = views(training)
        torch.set_rng_state(second_begins)
        second = views(training)
    assert not torch.equal(first, second)
    assert seen == pytest.approx(plain + 0.7 * float(simcse(first, second, 0.05)), rel=1e-5)


def test_gradient_reaches_the_body_and_nothing_stays_on_it(model, tmp_path):
    training = prepared('full + contrastive("supcon", weight=100.0)', model, tmp_path)
    plain = prepared("full", model, tmp_path)
    assert not torch.allclose(gradient(training), gradient(plain))
    assert not body(training.model)._forward_hooks
    pickle.dumps(training.model)


def problems(text, **context):
    (stage,) = recipe.parse(text).stages
    where = {"task": Classification, "model": "bert", "batch_size": 8, "steps": 10} | context
    where["structure"] = architectures.structure(where["model"], **where.pop("config", {}))
    return [
        problem
        for method in stage.modifiers
        if method.name == "contrastive"
        for problem in refusals.problems(method, PlanContext((), stage, HERE, **where))
    ]


@pytest.mark.parametrize(
    ("text", "context", "says"),
    [
        ('full + contrastive("supcon") + accumulate(2)', {}, "leave out accumulate"),
        ('full + contrastive("simcse") + accumulate(2)', {}, "micro-batches"),
        ('full + contrastive("supcon")', {"batch_size": 1}, "budget.batch_size"),
        ('full + contrastive("supcon")', {"batch_size": 2}, "budget.batch_size"),
        ('full + contrastive("supcon")', {"task": LanguageModelling}, 'contrastive("simcse")'),
        ('full + contrastive("simcse")', {"model": "llama"}, "no dropout"),
        (
            'full + contrastive("simcse")',
            {"config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.1}},
            "no dropout",
        ),
        ('head + contrastive("supcon")', {}, "the head trains alone"),
        ('full + contrastive("supcon") + compile', {}, "leave out compile"),
        ('pretrain("mlm") + contrastive("supcon")', {}, "on the training after"),
    ],
)
def test_what_it_cannot_see_is_refused(text, context, says):
    (problem,) = problems(text, **context)
    assert says in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiny_bert", 'lora(r=2) + contrastive("supcon") + mixed_precision'),
        ("tiny_llama", 'lora(r=2, dropout=0.1) + contrastive("simcse") + mixed_precision'),
        ("tiny_bert", 'full + contrastive("simcse") + rdrop + adversarial("fgm") + gradient_checkpointing'),
        ("tiny_bert", 'prompt(3) + contrastive("supcon")'),
    ],
)
def test_with_others(request, name, tmp_path, text):
    status, reason, _ = jobs.run(text, request.getfixturevalue(name), tmp_path)
    assert status == "ok", reason


def test_a_probe_without_two_of_a_class_shows_the_loss_too(tiny_bert, tmp_path, monkeypatch):
    def different(work):
        batches = work.task.batches("train", work.tokenizer, batch_size=3, max_length=16)
        return next(batch for batch in batches if len(set(batch.labels.tolist())) == 3)

    monkeypatch.setattr(Work, "probe", property(different))
    status, reason, (record,) = jobs.run('full + contrastive("supcon")', tiny_bert, tmp_path)
    assert status == "ok", reason
    seen = next(claim["seen"] for claim in record["evidence"] if "loss of supcon" in claim["text"])
    assert float(seen.split()[0]) > 0.01
