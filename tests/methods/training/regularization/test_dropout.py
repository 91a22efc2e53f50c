"""Dropout's probability where it is, and what it does there."""

import pytest
import torch

from bench.models.architecture import attention
from bench.testing import jobs
from tests.trainings import claims, gradient, make, prepared


def test_what_is_dropped_is_zero_and_the_rest_scaled_up(tiny_bert, tmp_path):
    training = prepared("full + dropout(0.4)", tiny_bert, tmp_path)
    seen = []
    layers = [module for module in training.model.modules() if isinstance(module, torch.nn.Dropout)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, args, out: seen.append((args[0].detach(), out.detach())))
    torch.manual_seed(0)
    training.loss(training.probe)
    # Of the embeddings, of attention's and the feed-forward part's outputs in two blocks, and of the head.
    assert len(seen) == 1 + 2 * 2 + 1
    for given, out in seen:
        kept = out != 0
        torch.testing.assert_close(out[kept], given[kept] / 0.6)
    dropped = torch.cat([(out == 0)[given != 0] for given, out in seen]).double().mean()
    assert float(dropped) == pytest.approx(0.4, abs=0.01)  # of some 41,000


def test_in_attention_too(model, tmp_path, monkeypatch):
    training = prepared("full + dropout(0.4)", model, tmp_path)
    given = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, dropout_p=0.0, **keys):
        given.append(dropout_p)
        return real(*args, dropout_p=dropout_p, **keys)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    training.loss(training.probe)
    training.model.eval()
    training.loss(training.probe)
    assert given == [0.4] * 2 + [0.0] * 2


def test_with_none_two_passes_are_one(tiny_bert, tmp_path):
    training = prepared("full + dropout(0.0)", tiny_bert, tmp_path)
    assert torch.equal(gradient(training, seed=0), gradient(training, seed=1))
    usual = prepared("full", tiny_bert, tmp_path)
    assert not torch.equal(gradient(usual, seed=0), gradient(usual, seed=1))


def test_an_adapters_own_is_set_too(model, tmp_path):
    training = prepared("lora(dropout=0.1) + dropout(0.4)", model, tmp_path)
    found = {module.p for module in training.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {0.4}


def test_afterwards_the_old_ones_are_back(model, tmp_path):
    def probabilities(model):
        layers = {n: m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
        return layers, [getattr(part.module, "attention_dropout", None) for part in attention(model)]

    training = make("full + dropout(0.4)", model, tmp_path)
    before = probabilities(training.model)
    training.prepare()
    assert probabilities(training.model) != before
    training.run()
    training.finish()
    assert probabilities(training.model) == before


def test_a_layer_with_another_probability_is_seen(tiny_bert, tmp_path):
    training = prepared("full + dropout(0.4)", tiny_bert, tmp_path)
    text = "dropout drops with a probability of 0.4"
    assert claims(training)[text] == (True, "8 ran, with 0.4")
    attention(training.model)[1].module.dropout.p = 0.1
    assert claims(training)[text] == (False, "8 ran, with 0.1, 0.4")


def test_outputs_that_are_measured_have_none(tiny_bert, tmp_path):
    _, _, (plain,) = jobs.run("full(lr=1e-7)", tiny_bert, tmp_path)
    _, _, (dropped,) = jobs.run("full(lr=1e-7) + dropout(0.5)", tiny_bert, tmp_path)
    assert plain["quality"]["predictions"] == dropped["quality"]["predictions"]
    assert plain["training"]["losses"] != dropped["training"]["losses"]
