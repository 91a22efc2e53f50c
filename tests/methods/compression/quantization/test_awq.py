"""AWQ's search against all that it tries, and on inputs made for it."""

import torch

from methods.compression.quantization._shared import packing
from methods.compression.quantization.awq import POWERS, awq
from tests.transforms import applied


def given():
    """Weights, and inputs of which one in eight is thirty times as large."""
    torch.manual_seed(0)
    weight, inputs = torch.randn(24, 64), torch.randn(400, 64)
    inputs[:, ::8] *= 30
    return weight, inputs


def error(found, weight, inputs):
    return float((inputs @ (found - weight).T).square().sum())


def rounded(weight):
    step = packing.spread(packing.steps(weight, 4, 32), 32, weight.shape[1]).float()
    return packing.nearest(weight, step, 4) * step


def run(weight, inputs):
    codes, scale, divisor = awq(weight, inputs.T @ inputs, inputs.abs().sum(0), 4, 32)
    return codes * packing.spread(scale, 32, weight.shape[1]).float() / divisor, divisor


def test_it_takes_the_best_power():
    weight, inputs = given()
    magnitudes = inputs.abs().mean(0)
    tried = []
    for number in range(POWERS):
        divisor = magnitudes ** (number / POWERS)
        divisor = divisor / (divisor.max() * divisor.min()).sqrt()
        tried.append(error(rounded(weight * divisor) / divisor, weight, inputs))
    found, _ = run(weight, inputs)
    assert abs(error(found, weight, inputs) / min(tried) - 1) < 1e-3
    assert min(tried) < tried[0]


def test_active_inputs_are_rounded_more_finely():
    weight, inputs = given()
    found, divisor = run(weight, inputs)
    assert error(found, weight, inputs) < 0.5 * error(rounded(weight), weight, inputs)
    assert float(divisor[::8].min()) > float(divisor[1::8].max())


def test_the_layer_divides_what_its_weight_was_multiplied_by(tiny_bert, tmp_path):
    original, done = applied("awq(samples=16)", tiny_bert, tmp_path)
    path = "bert.encoder.layer.0.intermediate.dense"
    plain, layer = original.get_submodule(path), done.model.get_submodule(path)
    expected = by_group(plain.weight.detach() * layer.divisor) / layer.divisor
    torch.testing.assert_close(layer.unpacked(), expected, rtol=1e-5, atol=1e-8)
    inputs = torch.randn(3, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), inputs @ expected.T + plain.bias, rtol=1e-5, atol=1e-6)


def by_group(weight):
    step = packing.spread(packing.steps(weight, 4, 128), 128, weight.shape[1]).float()
    return packing.nearest(weight, step, 4) * step
