"""GPTQ against the surgeon's formula with an inverse of its own for each column."""

import pytest
import torch

from methods.compression.quantization._shared import packing
from methods.compression.quantization.gptq import gptq
from tests.transforms import applied

DAMPING = 0.01


def slowly(weight, products, group_size):
    """Column by column: round, and move what is left by ``−error / [H⁻¹]₀₀ · [H⁻¹]₀``, H being that of what is left."""
    weight, hessian = weight.double().clone(), products.double()
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    rounded = torch.zeros_like(weight)
    for column in range(weight.shape[1]):
        if column % group_size == 0:
            largest = weight[:, column : column + group_size].abs().amax(1)
            step = (largest.float() / 7).half().double()
        inverse = torch.linalg.inv(hessian[column:, column:])
        rounded[:, column] = (weight[:, column] / step).round().clamp(-7, 7) * step
        error = (weight[:, column] - rounded[:, column]) / inverse[0, 0]
        weight[:, column:] -= error.outer(inverse[0])
    return rounded.float()


def given(rows=12, columns=40, tokens=300):
    torch.manual_seed(0)
    inputs = torch.randn(tokens, columns) @ torch.randn(columns, columns) / columns**0.5
    return torch.randn(rows, columns), inputs


def ours(weight, products, group_size):
    codes, scale = gptq(weight, products, 4, group_size, DAMPING)
    return codes * packing.spread(scale, group_size, weight.shape[1]).float()


@pytest.mark.parametrize("group_size", [8, 16, 40, 64])
def test_it_is_the_slow_one(group_size):
    weight, inputs = given()
    products = inputs.T @ inputs
    kept = weight.clone()
    torch.testing.assert_close(ours(weight, products.clone(), group_size), slowly(weight, products, group_size))
    assert torch.equal(weight, kept)


def test_where_inputs_are_independent_it_rounds_to_the_nearest():
    weight, _ = given()
    step = packing.spread(packing.steps(weight, 4, 16), 16, 40).float()
    assert torch.equal(ours(weight, torch.eye(40), 16), packing.nearest(weight, step, 4) * step)


def test_outputs_are_nearer_than_of_rounding_to_the_nearest():
    weight, inputs = given()
    step = packing.spread(packing.steps(weight, 4, 40), 40, 40).float()
    nearest = packing.nearest(weight, step, 4) * step

    def error(rounded):
        return float((inputs @ (rounded - weight).T).square().sum())

    assert error(ours(weight, inputs.T @ inputs, 40)) < 0.7 * error(nearest)


def test_inputs_that_never_come_are_no_obstacle():
    weight, inputs = given()
    inputs[:, 5] = 0
    found = ours(weight, inputs.T @ inputs, 40)
    assert bool(found.isfinite().all())
    assert found[:, 5].any()


def test_later_blocks_see_the_rounded_ones(tiny_bert, tmp_path, monkeypatch):
    from methods import _statistics

    seen = []
    collect = _statistics.collect

    def watched(work, layers, samples, measure):
        packed = [module for module in work.model.modules() if isinstance(module, packing.PackedLinear)]
        seen.append((len(packed), len(layers)))
        return collect(work, layers, samples, measure)

    monkeypatch.setattr(_statistics, "collect", watched)
    applied("gptq(samples=16)", tiny_bert, tmp_path)
    assert seen == [(0, 6), (6, 6)]
