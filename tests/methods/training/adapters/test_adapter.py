"""Adapters against the paper's count, its places and a computation by hand."""

import pytest
import torch

from bench.models.architecture import attention, blocks, feed_forward
from methods.training.adapters._shared import bottleneck
from tests.trainings import make, no_dropout, prepared

NORMS = {"tiny-bert": 5 * 2 * 32, "tiny-llama": 5 * 32}  # two a block and one outside; Llama's have no bias
HEAD = {"tiny-bert": 3 * 32 + 3, "tiny-llama": 3 * 32}


@pytest.mark.parametrize(("placement", "each"), [("houlsby", 2), ("pfeiffer", 1)])
@pytest.mark.parametrize("size", [1, 8])
def test_as_many_weights_as_the_paper_says(model, tmp_path, placement, each, size):
    training = prepared(f'adapter({size}, "{placement}")', model, tmp_path)
    for block in blocks(training.model):
        found = [module for module in block.modules() if isinstance(module, bottleneck.Bottleneck)]
        assert [sum(p.numel() for p in one.parameters()) for one in found] == [2 * size * 32 + 32 + size] * each
    norms = NORMS[model.name] if placement == "houlsby" else 0
    total = 2 * each * (2 * size * 32 + 32 + size) + norms + HEAD[model.name]
    assert sum(p.numel() for p in training.parameters) == total


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_at_the_start_outputs_are_the_pretrained_ones(model, tmp_path, placement):
    training = make(f'adapter(8, "{placement}")', model, tmp_path)
    pretrained = training.probe_logits()
    training.prepare()
    assert torch.equal(training.probe_logits(), pretrained)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_they_stand_behind_the_sublayers_before_the_residual(model, tmp_path, placement):
    plain = no_dropout(make("head", model, tmp_path))
    behind = [down for _, down in feed_forward(plain.model)]
    if placement == "houlsby":
        behind += [part.output for part in attention(plain.model)]
    names = {name for name, module in plain.model.named_modules() if module in behind}

    training = no_dropout(prepared(f'adapter(8, "{placement}")', model, tmp_path))
    found = {name: module for name, module in training.model.named_modules() if isinstance(module, bottleneck.Adapted)}
    assert found.keys() == names
    activation = torch.nn.functional.gelu if placement == "houlsby" else torch.relu
    for module in found.values():
        adapter = module.adapter
        torch.nn.init.normal_(adapter.up.weight)
        torch.nn.init.normal_(adapter.up.bias)
        x = torch.randn(3, module.base_layer.in_features)
        inside = module.base_layer(x)
        down = activation(inside @ adapter.down.weight.T + adapter.down.bias)
        wanted = inside + down @ adapter.up.weight.T + adapter.up.bias
        torch.testing.assert_close(module(x), wanted)


@pytest.mark.parametrize("wrong", ["a base weight", "an adapter taken out", "an adapter that does nothing"])
def test_what_is_wrong_is_found_out(model, tmp_path, wrong):
    training = make('adapter(8, "pfeiffer")', model, tmp_path)
    before = training.snapshot()
    training.prepare()
    training.run()
    assert all(claim.holds for claim in training.trainer.evidence(before, training))
    vars(training).pop("after")
    first = next(m for m in training.model.modules() if isinstance(m, bottleneck.Adapted))
    with torch.no_grad():
        match wrong:
            case "a base weight":
                first.base_layer.weight[0, 0] += 1
            case "an adapter taken out":
                parent = next(m for m in training.model.modules() if first in m.children())
                name = next(name for name, child in parent.named_children() if child is first)
                setattr(parent, name, first.base_layer)
            case _:
                first.adapter.up.weight.zero_()
                first.adapter.up.bias.zero_()
    false = {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds}
    assert {
        "a base weight": "the base's weights are bit-identical",
        "an adapter taken out": "there are 2 adapters",
        "an adapter that does nothing": "each adapter changes what goes through it",
    }[wrong] in false
