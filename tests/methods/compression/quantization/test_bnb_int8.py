"""bitsandbytes' 8 bits against hand computations."""

import pytest
import torch
import transformers
from torch import nn

from bench.models.architecture import block_linears
from methods import _quantized
from tests.transforms import applied, logits


def layer_of(plain, threshold):
    from methods.compression.quantization._shared import bitsandbytes_layers as layers

    return layers.eight_bits(plain, threshold).eval()


def rounded(rows):
    """Each row to the nearest of 127 steps of its largest magnitude either way, from half precision."""
    step = rows.half().float().abs().amax(1, keepdim=True) / 127
    return (rows.half().float() / step).round() * step


def test_weights_and_activations_are_rounded_row_by_row():
    torch.manual_seed(0)
    plain, inputs = nn.Linear(64, 32), torch.randn(5, 64)
    layer = layer_of(plain, 6.0)
    torch.testing.assert_close(
        _quantized.effective(layer, plain.weight), rounded(plain.weight.detach()), rtol=1e-3, atol=1e-6
    )
    with torch.no_grad():
        expected = rounded(inputs) @ rounded(plain.weight).T + plain.bias
        torch.testing.assert_close(layer(inputs), expected, rtol=2e-3, atol=2e-3)


def test_outliers_are_multiplied_apart():
    torch.manual_seed(0)
    plain, inputs = nn.Linear(64, 32), torch.randn(5, 64)
    inputs[2, 7] = 300.0  # rounded together with it, nothing else of its token would be left
    weight = rounded(plain.weight.detach())
    with torch.no_grad():
        exact = inputs @ weight.T + plain.bias
        apart, together = layer_of(plain, 6.0)(inputs), layer_of(plain, 0.0)(inputs)
    assert float((apart - exact)[2].abs().max()) < 0.05
    assert float((together - exact)[2].abs().max()) > 0.5


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_what_is_saved_loads_the_same(fixture, request, tmp_path):
    _, done = applied("bnb_int8", request.getfixturevalue(fixture), tmp_path)
    seen = logits(done.model.eval(), done)
    done.model.save_pretrained(tmp_path / "saved")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    kinds = {name: type(module) for name, module in done.model.named_modules()}
    assert {name: type(module) for name, module in loaded.named_modules()} == kinds
    theirs = loaded.state_dict()
    assert all(torch.equal(ours, theirs[name]) for name, ours in done.model.state_dict().items())
    torch.testing.assert_close(logits(loaded, done), seen, rtol=1e-3, atol=1e-4)


def test_gradients_are_those_of_the_rounded_weight():
    torch.manual_seed(0)
    plain = nn.Linear(64, 32)
    layer = layer_of(plain, 6.0).train()
    inputs = torch.randn(3, 64, requires_grad=True)
    layer(inputs).sum().backward()
    expected = rounded(plain.weight.detach()).sum(0).expand(3, 64)
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("used", [False, True])
def test_a_pickle_gives_back_what_it_was_and_its_scales_move_with_it(used, tiny_bert, tmp_path):
    _, done = applied("bnb_int8", tiny_bert, tmp_path)
    if used:  # the scales go from the weight to the layer
        logits(done.model.eval(), done)
    torch.save(done.model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False).eval()
    kinds = {name: type(weight) for name, weight in done.model.named_parameters()}
    assert {name: type(weight) for name, weight in loaded.named_parameters()} == kinds
    assert torch.equal(logits(loaded, done), logits(done.model, done))
    for layer in block_linears(loaded).values():
        scales = layer.state.SCB
        layer._apply(torch.clone)  # what a move to a GPU calls
        assert layer.state.CB.data_ptr() == layer.weight.data_ptr()
        assert layer.state.SCB.data_ptr() != scales.data_ptr()
    assert torch.equal(logits(loaded, done), logits(done.model, done))
