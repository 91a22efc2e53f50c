"""Training for 8 bits: the rounding is torchao_int8_dynamic's, to the bit, and gradients pass it."""

import copy

import pytest
import torch
from torch import nn

from bench.models.architecture import block_linears
from bench.testing import jobs
from methods.training.compression_aware._shared.fake_quantization import FakeInt8Linear, rounded
from tests.trainings import no_dropout, prepared
from tests.transforms import logits, refusals


def fake(plain):
    layer = copy.deepcopy(plain).train()
    layer.__class__ = FakeInt8Linear
    return layer


def test_it_rounds_as_torchao_does():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.manual_seed(0)
    plain, inputs = nn.Linear(48, 24), torch.randn(2, 9, 48)
    theirs = copy.deepcopy(plain)
    quantize_(theirs, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    with torch.no_grad():
        assert torch.equal(rounded(plain.weight), theirs.weight.dequantize())
        torch.testing.assert_close(fake(plain)(inputs), theirs(inputs), rtol=1e-5, atol=1e-6)


def test_a_row_has_at_most_256_values():
    torch.manual_seed(0)
    found = rounded(torch.randn(3, 5000))
    assert all(100 < row.unique().numel() <= 256 for row in found)


def test_gradients_are_those_of_the_rounded_product_and_stop_beyond_the_last_code():
    torch.manual_seed(0)
    plain, inputs = nn.Linear(16, 8), torch.randn(5, 16, requires_grad=True)
    layer = fake(plain)
    upstream = torch.randn(5, 8)
    layer(inputs).backward(upstream)

    def inside(rows):
        step = rows.detach().abs().amax(1, keepdim=True) / 127.5
        return (rows.detach() * (1 / step)).round().clamp(-128, 127) == (rows.detach() * (1 / step)).round()

    torch.testing.assert_close(layer.weight.grad, upstream.T @ rounded(inputs) * inside(plain.weight))
    torch.testing.assert_close(inputs.grad, upstream @ rounded(plain.weight) * inside(inputs))
    assert not bool(inside(inputs).all())


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_what_trains_is_what_int8_dynamic_gives(fixture, request, tmp_path):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    training = no_dropout(prepared("full + qat_int8", request.getfixturevalue(fixture), tmp_path))
    theirs = copy.deepcopy(training.model).eval()
    for layer in block_linears(theirs).values():
        layer.__class__ = nn.Linear
        quantize_(layer, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    plain = logits(copy.deepcopy(training.model).eval(), training)
    seen, expected = logits(training.model.train(), training), logits(theirs, training)
    # The largest of each row lies halfway between two codes, so noise of a bit may move it by one.
    assert float((seen - expected).norm()) < 0.5 * float((plain - expected).norm())


def test_the_layers_stay_the_same_objects_and_are_plain_again_after(tiny_bert, tmp_path):
    training = prepared("full + qat_int8", tiny_bert, tmp_path)
    layers = block_linears(training.model)
    assert all(type(layer) is FakeInt8Linear for layer in layers.values())
    training.run()
    weights = {path: layer.weight for path, layer in layers.items()}
    training.finish()
    after = block_linears(training.model)
    assert all(type(layer) is nn.Linear and layer.weight is weights[path] for path, layer in after.items())


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize(
    "text",
    [
        "full + qat_int8 >> torchao_int8_dynamic",
        "magnitude(0.5) >> full + qat_int8 + accumulate(2) >> torchao_int8_weight_only",
        "full + qat_int8 + mixed_precision + gradient_checkpointing",
    ],
)
def test_it_runs_in_chains(text, fixture, request, tmp_path):
    status, reason, _ = jobs.run(text, request.getfixturevalue(fixture), tmp_path, budget={"steps": 3})
    assert status == "ok", reason


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lora(r=2) + qat_int8", "lora does not train the weights"),
        ("head + qat_int8", "head does not train the weights"),
        ("full + qat_int8 + compile", "leave out compile"),
        ("full + qat_int8 + ensemble(2)", "qat_int8"),
        ("nf4 >> full + qat_int8", "quantized"),
    ],
)
def test_what_cannot_be_is_refused(text, why, tiny_bert, tmp_path):
    assert any(why in reason for reason in refusals(text, tiny_bert, tmp_path)), refusals(text, tiny_bert, tmp_path)
