"""(IA)³ against counts by hand and the paper's formula."""

import torch

from methods import _peft
from tests.trainings import make, no_dropout, prepared

# Of a block. BERT: keys, values, and inputs of attention's and the feed-forward part's output layers.
# Llama: keys and values, which two heads share, and inputs of the layer that narrows.
FACTORS = {"tiny-bert": 32 + 32 + 32 + 64, "tiny-llama": 16 + 16 + 64}
HEAD = {"tiny-bert": 3 * 32 + 3, "tiny-llama": 3 * 32}


def test_one_factor_an_activation(model, tmp_path):
    training = prepared("ia3", model, tmp_path)
    assert sum(p.numel() for p in training.parameters) == 2 * FACTORS[model.name] + HEAD[model.name]


def test_at_the_start_outputs_are_the_pretrained_ones(model, tmp_path):
    training = make("ia3", model, tmp_path)
    pretrained = training.probe_logits()
    training.prepare()
    assert torch.equal(training.probe_logits(), pretrained)


def test_keys_and_values_are_rescaled_and_what_goes_into_the_output_layer(model, tmp_path):
    training = no_dropout(prepared("ia3", model, tmp_path))
    layers = _peft.layers(training.model, "ia3_l")
    assert len(layers) == {"tiny-bert": 8, "tiny-llama": 6}[model.name]
    for name, layer in layers.items():
        factors = torch.nn.init.normal_(layer.ia3_l["default"].data).flatten()
        weight, bias = layer.base_layer.weight, layer.base_layer.bias
        x = torch.randn(3, layer.in_features)
        narrows = name.endswith(("output.dense", "down_proj"))
        wanted = (x * factors) @ weight.T if narrows else (x @ weight.T) * factors
        if bias is not None:
            wanted += bias if narrows else bias * factors
        torch.testing.assert_close(layer(x), wanted)


def test_factors_that_nothing_uses_are_found_out(model, tmp_path):
    training = make("ia3", model, tmp_path)
    before = training.snapshot()
    training.prepare()
    training.run()
    assert all(claim.holds for claim in training.trainer.evidence(before, training))
    layer = next(iter(_peft.layers(training.model, "ia3_l").values()))
    with torch.no_grad():
        layer.ia3_l["default"].mul_(2)
    layer.forward = layer.base_layer.forward
    false = {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds}
    assert false == {"activations are rescaled by them"}
