"""Weight decay by hand: what a step with no gradient does to each weight."""

import pytest
import torch

from tests.trainings import claims, prepared


def without_gradient(training):
    """Each trained weight before and after an update with gradients of 0."""
    before = [parameter.detach().clone() for parameter in training.parameters]
    for parameter in training.parameters:
        parameter.grad = torch.zeros_like(parameter)
    training.update()
    return list(zip(training.parameters, before, strict=True))


@pytest.mark.parametrize("optimizer", ["", ' + optimizer("sgd")', ' + optimizer("muon")', ' + optimizer("lion_8bit")'])
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_matrices_shrink_by_the_rate_times_the_decay_and_vectors_stay(model, optimizer, tmp_path, request):
    training = prepared(f"full(lr=0.1) + weight_decay(0.5){optimizer}", request.getfixturevalue(model), tmp_path)
    weights = without_gradient(training)
    for weight, before in weights:
        torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5) if weight.dim() > 1 else before)
    assert {weight.dim() for weight, _ in weights} == {1, 2}
    assert all(holds for holds, _ in claims_of_decay(training).values())


def claims_of_decay(training):
    return {text: claim for text, claim in claims(training).items() if "decay" in text}


def test_none_at_all(tiny_bert, tmp_path):
    for weight, before in without_gradient(prepared("full + weight_decay(0.0)", tiny_bert, tmp_path)):
        assert torch.equal(weight, before)


def test_without_it_the_optimizers_own_default_holds_for_all(tiny_bert, tmp_path):
    for weight, before in without_gradient(prepared("full(lr=0.1)", tiny_bert, tmp_path)):
        torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.01))


def test_groups_of_another_decay_are_seen(tiny_bert, tmp_path):
    training = prepared("full + weight_decay(0.5)", tiny_bert, tmp_path)
    training.optimizer.param_groups[0]["weight_decay"] = 0.01
    ((holds, _),) = claims_of_decay(training).values()
    assert not holds
