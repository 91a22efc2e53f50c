"""LoRA and its variants against their formulas."""

import math

import pytest
import torch

from tests import jobs, transforms
from tests.trainings import claims, make, no_dropout, prepared

# Query and value of two blocks: r·(in + out) each, where Llama's value is half as wide.
PLAIN = {"tiny_bert": 4 * 2 * 64, "tiny_llama": 2 * 2 * 64 + 2 * 2 * 48}
LENGTHS = {"tiny_bert": 4 * 32, "tiny_llama": 2 * 32 + 2 * 16}


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def named(request):
    return request.param, request.getfixturevalue(request.param)


def layers(training):
    return [module for module in training.model.modules() if "default" in getattr(module, "lora_A", ())]


def drawn(training):
    """The same, with an update that is not zero."""
    with torch.no_grad():
        for name, parameter in training.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
            if "magnitude" in name:
                parameter.mul_(1.5)
    return training


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", "pissa"])
def test_as_many_weights_as_the_formula_says(named, tmp_path, variant):
    name, model = named
    training = prepared(f'lora(r=2, variant="{variant}")', model, tmp_path)
    count = sum(p.numel() for n, p in training.model.named_parameters() if p.requires_grad and "lora_" in n)
    assert count == PLAIN[name] + LENGTHS[name] * (variant == "dora")


@pytest.mark.parametrize(("variant", "scale"), [("plain", 2.0), ("rslora", 16 / math.sqrt(4))])
def test_a_layer_adds_the_scaled_product(named, tmp_path, variant, scale):
    _, model = named
    layer = layers(drawn(prepared(f'lora(r=4, variant="{variant}")', model, tmp_path)))[0]
    x = torch.randn(3, 32)
    added = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * added)


def test_alpha_is_taken_as_given(tiny_bert, tmp_path):
    layer = layers(prepared('lora(r=4, alpha=2.0, variant="rslora")', tiny_bert, tmp_path))[0]
    assert layer.scaling["default"] == 1.0


def test_doras_weights_have_its_lengths_and_loras_direction(named, tmp_path):
    _, model = named
    layer = layers(drawn(prepared('lora(r=4, variant="dora")', model, tmp_path)))[0]
    layer.eval()
    weight = layer.base_layer.weight + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    length = layer.lora_magnitude_vector["default"].weight
    assert torch.allclose(length, 1.5 * layer.base_layer.weight.norm(dim=1), rtol=1e-5)
    whole = length[:, None] * weight / weight.norm(dim=1, keepdim=True)
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, whole, layer.base_layer.bias))


def test_pissa_takes_the_principal_directions_out_and_changes_no_output(named, tmp_path):
    _, model = named
    pretrained, training = (no_dropout(make(text, model, tmp_path)) for text in ["head", 'lora(r=4, variant="pissa")'])
    logits = pretrained.probe_logits()
    weights = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    training.prepare()
    torch.testing.assert_close(training.probe_logits(), logits, rtol=1e-4, atol=1e-6)
    for name, module in training.model.named_modules():
        if "default" not in getattr(module, "lora_A", ()):
            continue
        weight = weights[f"{name.removeprefix('base_model.model.')}.weight"]
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        first = u[:, :4] * s[:4] @ v[:4]
        product = 2 * module.lora_B["default"].weight @ module.lora_A["default"].weight
        torch.testing.assert_close(product, first, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(module.base_layer.weight, weight - first, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda layer: layer.scaling.update(default=1.0), "an update is 2 times B A"),
        (lambda layer: layer.lora_B["default"].weight.data.zero_(), "every layer's update is not zero"),
        (
            lambda layer: layer.base_layer.weight.requires_grad_(True),
            "the adapter and the head train, and nothing else",
        ),
    ],
)
def test_what_is_wrong_is_claimed_wrong(tiny_bert, tmp_path, wrong, text):
    training = prepared("lora(r=2)", tiny_bert, tmp_path)
    training.run()
    wrong(layers(training)[0])
    assert not claims(training, trainer=True)[text][0]


def test_a_magnitude_that_nothing_uses_is_found_out(tiny_bert, tmp_path):
    training = prepared('lora(r=2, variant="dora")', tiny_bert, tmp_path)
    training.run()
    text = "weights are as long as their magnitudes say"
    assert claims(training, trainer=True)[text][0]
    layers(training)[0].lora_variant.clear()  # plain LoRA's forward pass, beside a magnitude
    layers(training)[0].lora_magnitude_vector["default"].weight.data.mul_(2)
    assert not claims(training, trainer=True)[text][0]


TOGETHER = "the frozen rest and the adapter's start are the pretrained weight together"
PRINCIPAL = "the adapter started with each weight's 4 principal directions, which the frozen rest lacks"


def scaled(layer):
    layer.base_layer.weight.mul_(1.001)


def nudged(layer):
    layer.base_layer.weight[0, 0] += 0.01 * layer.base_layer.weight.norm()


def put_back(layer):
    layer.base_layer.weight += layer.get_delta_weight("default")


@pytest.mark.parametrize(
    ("tamper", "false"),
    [(None, set()), (scaled, {TOGETHER}), (nudged, {TOGETHER, PRINCIPAL}), (put_back, {TOGETHER, PRINCIPAL})],
)
def test_a_base_weight_that_is_not_what_pissa_left_is_found_out(named, tmp_path, tamper, false):
    training = make('lora(r=4, variant="pissa")', named[1], tmp_path)
    before = training.snapshot()
    training.prepare()
    if tamper:
        with torch.no_grad():
            tamper(layers(training)[0])
    training.run()
    assert {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds} == false


def test_another_start_than_the_principal_directions_is_found_out(tiny_bert, tmp_path):
    training = make('lora(r=4, variant="pissa")', tiny_bert, tmp_path)
    before = training.snapshot()
    training.prepare()
    layer = layers(training)[0]
    up, down = training.state["lora"]["bert.encoder.layer.0.attention.self.query"]
    with torch.no_grad():  # the sum stays the pretrained weight
        layer.base_layer.weight += up @ down  # half of what was taken out
        for part in (up, layer.lora_B["default"].weight):
            part.mul_(0.5)
    training.run()
    assert {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds} == {PRINCIPAL}


def test_pissa_needs_as_many_directions_as_ranks(tiny_llama, tmp_path):
    status, reason, _ = jobs.run('lora(r=20, variant="pissa")', tiny_llama, tmp_path)
    assert status == "refused"
    assert reason == "lora: model.layers.0.self_attn.v_proj has 16 principal directions, not 20; lower r"


def test_it_can_be_put_on_embeddings(tiny_bert, tmp_path):
    status, reason, records = jobs.run('lora(r=2, targets=["word_embeddings", "query"])', tiny_bert, tmp_path)
    assert status == "ok", reason
    seen = {claim["text"]: claim["seen"] for record in records for claim in record["evidence"]}
    # Of 2 blocks a query, 32 by 32, and the embeddings of 74 tokens in 32 numbers.
    rows = len((tiny_bert / "vocab.txt").read_text().splitlines())
    assert seen["the adapter has r·(in + out) weights a layer"].startswith(f"{2 * (2 * 64 + rows + 32):,} ")


def test_a_target_that_is_not_there_is_refused(tiny_bert, tmp_path):
    (said,) = transforms.refusals('lora(targets=["querry"])', tiny_bert, tmp_path)
    assert "no layer called `querry`; did you mean `query`?" in said
