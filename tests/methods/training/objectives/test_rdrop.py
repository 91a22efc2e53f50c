"""R-Drop against the formula, computed by hand."""

import math

import pytest
import torch

from bench.plan.context import PlanContext
from bench.recipe import recipe
from methods.training.objectives.rdrop import RDrop, divergence
from tests import jobs
from tests.subjects import HERE
from tests.trainings import gradient, no_dropout, prepared


def test_divergence_of_two_rows_by_hand():
    # p = (3/4, 1/4) and q = (1/2, 1/2); then twice the same.
    first = torch.tensor([[math.log(3), 0.0], [0.3, 0.4]])
    second = torch.tensor([[0.0, 0.0], [0.3, 0.4]])
    forwards = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    backwards = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence(first, second)) == pytest.approx((forwards + backwards) / 2 / 2, rel=1e-5)
    assert float(divergence(second, first)) == pytest.approx(float(divergence(first, second)))


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_loss_is_the_papers_of_two_passes(tiny_bert, tmp_path, alpha):
    training = prepared(f"full + rdrop({alpha})", tiny_bert, tmp_path)
    batch = training.probe
    torch.manual_seed(5)
    loss = float(training.loss(batch).detach())
    torch.manual_seed(5)
    with torch.no_grad():
        one, two = (training.model(**batch.inputs).logits.double() for _ in range(2))
    assert not torch.equal(one, two)
    p, q = one.softmax(-1), two.softmax(-1)
    expected = 0.0
    for item, label in enumerate(batch.labels):
        expected -= float(p[item, label].log() + q[item, label].log()) / 2
        expected += alpha * float((p[item] * (p[item] / q[item]).log() + q[item] * (q[item] / p[item]).log()).sum()) / 2
    assert loss == pytest.approx(expected / batch.samples, rel=1e-5)


def test_without_dropout_it_is_the_plain_loss_and_planning_says_so(tiny_llama, tmp_path):
    training = no_dropout(prepared("full + rdrop(1.0)", tiny_llama, tmp_path))
    assert torch.equal(training.loss(training.probe), training._loss(training.probe))
    status, reason, _ = jobs.run("full + rdrop(1.0)", tiny_llama, tmp_path)
    assert status == "invalid"
    assert "dropout" in reason


def problems(text, model="llama", config=()):
    (stage,) = recipe.parse(text).stages
    context = PlanContext((), stage, HERE, "classification", model, 8, 10, dict(config))
    return list(RDrop(alpha=1.0).problems(context))


def test_planning_knows_where_dropout_is():
    assert "no dropout" in problems("full + rdrop")[0]
    assert "no dropout" in problems("full + rdrop + dropout(0.0)", "bert")[0]
    assert (
        "no dropout"
        in problems("full + rdrop", "bert", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0})[0]
    )
    for fine in ("full + rdrop + dropout(0.1)", "lora(dropout=0.1) + rdrop"):
        assert not problems(fine)
    assert not problems("full + rdrop", "bert")
    assert not problems("full + rdrop", "llama", {"attention_dropout": 0.1})


def test_gradient_of_micro_batches_is_the_whole_batchs(tiny_bert, tmp_path):
    def gradient_of(text):
        return gradient(no_dropout(prepared(text, tiny_bert, tmp_path)))

    whole = gradient_of("full + rdrop")
    assert torch.linalg.vector_norm(
        gradient_of("full + rdrop + accumulate(3)") - whole
    ) < 1e-5 * torch.linalg.vector_norm(whole)


@pytest.mark.parametrize(
    "text",
    [
        "lora(r=2, dropout=0.1) + rdrop + accumulate(2) + mixed_precision",
        'full + rdrop + dropout(0.2) + adversarial("fgm") + label_smoothing(0.1)',
    ],
)
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_with_others(request, model, tmp_path, text):
    status, reason, _ = jobs.run(text, request.getfixturevalue(model), tmp_path)
    assert status == "ok", reason


def test_predicted_tokens_are_the_terms_of_a_language_model(tiny_llama, tmp_path):
    status, reason, _ = jobs.run(
        "full + rdrop + dropout(0.1) + accumulate(2)", tiny_llama, tmp_path, task=jobs.prose(tmp_path)
    )
    assert status == "ok", reason
