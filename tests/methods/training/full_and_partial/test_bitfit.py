"""Biases alone, counted by hand."""

import pytest
import torch

from tests import architectures
from tests.trainings import gradient, make, prepared
from tests.transforms import refusals

# Of a block: four projections, the feed-forward layers and two norms; then the embeddings' norm, pooler and head.
BIASES = 2 * (4 * 32 + 64 + 32 + 2 * 32) + 32 + 32
HEAD = 3 * 32 + 3


def test_the_biases_and_the_new_head_train(tiny_bert, tmp_path):
    training = prepared("bitfit", tiny_bert, tmp_path)
    assert sum(p.numel() for p in training.parameters) == BIASES + HEAD
    trained = {name for name, p in training.model.named_parameters() if p.requires_grad}
    assert {name for name in trained if not name.endswith(".bias")} == {"classifier.weight"}


def test_the_gradient_is_that_of_full_fine_tuning(tiny_bert, tmp_path):
    bitfit, full = (prepared(text, tiny_bert, tmp_path) for text in ("bitfit", "full"))
    ours = gradient(bitfit)
    names = {name for name, p in bitfit.model.named_parameters() if p.requires_grad}
    full.parameters = [p for name, p in full.model.named_parameters() if name in names]
    assert torch.equal(ours, gradient(full))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda model: model.bert.pooler.dense.weight.add_(1), "everything else is bit-identical"),
        (None, "the biases and the head moved: each matrix, and of each kind of vector some"),
    ],
)
def test_what_is_wrong_is_found_out(tiny_bert, tmp_path, wrong, text):
    training = make("bitfit", tiny_bert, tmp_path)
    before = training.snapshot()
    training.prepare()
    if wrong:
        training.run()
        with torch.no_grad():
            wrong(training.model)
    held = {claim.text: claim.holds for claim in training.trainer.evidence(before, training)}
    assert held[text] is False


@pytest.mark.parametrize(
    ("model", "config", "runs"),
    [("bert", {}, True), ("llama", {}, False), ("llama", {"attention_bias": True}, True), ("qwen2", {}, True)],
)
def test_it_needs_biases(model, config, runs, tmp_path):
    problems = refusals("bitfit", architectures.make(model, tmp_path, **config), tmp_path)
    assert problems == () if runs else "the blocks of a llama model have no biases" in problems[0]
