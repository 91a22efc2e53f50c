"""Clipping by hand, alone and among the methods that have to do with gradients."""

import pytest
import torch

from bench.testing import jobs
from tests.trainings import claims, gradient, prepared


def arriving(training):
    """The gradient that reaches the optimizer's step, as one vector."""
    seen = []
    training.optimizer.step = lambda: seen.append(torch.cat([p.grad.flatten() for p in training.parameters]))
    while not seen:
        torch.manual_seed(0)
        training.gradients(training.probe, 1.0)
        training.update()
    del training.optimizer.step
    return seen[0]


def test_a_long_gradient_is_shortened_and_keeps_its_direction(tiny_bert, tmp_path):
    whole = gradient(prepared("full", tiny_bert, tmp_path))
    clipped = arriving(prepared("full + gradient_clip(0.01)", tiny_bert, tmp_path))
    assert whole.norm() > 0.1
    torch.testing.assert_close(clipped, whole * 0.01 / whole.norm(), rtol=1e-3, atol=1e-9)


def test_a_short_one_stays(tiny_bert, tmp_path):
    whole = gradient(prepared("full", tiny_bert, tmp_path))
    assert torch.equal(arriving(prepared("full + gradient_clip(1000.0)", tiny_bert, tmp_path)), whole)


def test_scaled_gradients_are_unscaled_first(tiny_bert, tmp_path):
    whole = gradient(prepared("full", tiny_bert, tmp_path))
    training = prepared('full + mixed_precision("fp16") + gradient_clip(0.01) + accumulate(2)', tiny_bert, tmp_path)
    clipped = arriving(training)
    assert clipped.norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(clipped, whole, dim=0) > 0.9  # half precision, and other dropout
    # Without clipping the gradient is the unscaled one.
    plain = arriving(prepared('full + mixed_precision("fp16")', tiny_bert, tmp_path))
    assert plain.norm() == pytest.approx(float(whole.norm()), rel=0.1)


def test_evidence_leaves_weights_and_gradients_alone(tiny_bert, tmp_path):
    training = prepared('full + gradient_clip(0.5) + mixed_precision("fp16")', tiny_bert, tmp_path)
    training.run()
    before = [parameter.detach().clone() for parameter in training.parameters]
    assert all(holds for holds, _ in claims(training).values())
    assert all(torch.equal(now, then) for now, then in zip(training.parameters, before, strict=True))
    assert all(parameter.grad is None for parameter in training.parameters)
    assert "step" not in vars(training.optimizer)


@pytest.mark.parametrize(
    "others",
    ['accumulate(4) + schedule("cosine", warmup=0.2) + optimizer("adamw_8bit", min_8bit_size=1)', "weight_decay(0.1)"],
)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_with_the_others_that_change_the_update(tiny_bert, tmp_path, dtype, others):
    text = f'full + mixed_precision("{dtype}") + gradient_clip(0.1) + {others}'
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert status == "ok", reason
