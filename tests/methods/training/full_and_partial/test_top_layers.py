"""The last blocks against formulas of their size, and against the gradient of full fine-tuning."""

import pytest
import torch

from bench.models.architecture import blocks
from bench.plan import refusals
from bench.testing import jobs
from tests.trainings import claims, gradient, make, prepared

# By hand: a block, and what comes after the last: BERT's pooler, Llama's norm, and the head.
BLOCK = {
    "tiny-bert": 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 64,
    "tiny-llama": 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32,
}
AFTER = {"tiny-bert": (32 * 32 + 32) + 3 * 32 + 3, "tiny-llama": 32 + 3 * 32}


@pytest.mark.parametrize("n", [1, 2])
def test_the_last_blocks_train_and_what_comes_after_them(model, tmp_path, n):
    training = prepared(f"top_layers({n})", model, tmp_path)
    assert sum(p.numel() for p in training.parameters) == n * BLOCK[model.name] + AFTER[model.name]
    trained = {id(p) for p in training.parameters}
    for number, block in enumerate(blocks(training.model)):
        assert {id(p) in trained for p in block.parameters()} == {number >= 2 - n}


def test_the_gradient_is_that_of_full_fine_tuning(model, tmp_path):
    top, full = prepared("top_layers(1)", model, tmp_path), prepared("full", model, tmp_path)
    ours = gradient(top)
    names = {name for name, p in top.model.named_parameters() if p.requires_grad}
    full.parameters = [p for name, p in full.model.named_parameters() if name in names]
    assert torch.equal(ours, gradient(full))


def test_the_backward_pass_ends_at_the_first_of_them(model, tmp_path):
    training = prepared("top_layers(1)", model, tmp_path)
    seen = []
    for block in blocks(training.model):
        block.register_forward_hook(
            lambda block, args, out: seen.append((out if torch.is_tensor(out) else out[0]).requires_grad)
        )
    training.loss(training.probe)
    assert seen == [False, True]


def test_of_a_language_model_the_head_trains_and_the_embeddings_do_not(tiny_llama, tmp_path):
    training = prepared("top_layers(1)", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    trained = {name for name, p in training.model.named_parameters() if p.requires_grad}
    assert "lm_head.weight" in trained
    assert "model.embed_tokens.weight" not in trained


def test_what_moves_below_is_found_out(model, tmp_path):
    training = make("top_layers(1)", model, tmp_path)
    before = training.snapshot()
    training.prepare()
    training.run()
    with torch.no_grad():
        next(blocks(training.model)[0].parameters())[0] += 1
    held = {claim.text: claim.holds for claim in training.trainer.evidence(before, training)}
    assert held == {
        "the last 1 blocks and what comes after them train, and nothing else": True,
        "the last 1 blocks and what comes after them moved: each matrix, and of each kind of vector some": True,
        "everything else is bit-identical": False,
    }


def test_a_block_that_stays_is_found_out(tiny_bert, tmp_path):
    training = prepared("top_layers(2)", tiny_bert, tmp_path)
    found = claims(training, trainer=True)  # nothing has run
    assert (
        found["the last 2 blocks and what comes after them moved: each matrix, and of each kind of vector some"][0]
        is False
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("top_layers(3)", "the model has 2 blocks, not 3"),
        ("lora >> top_layers(1)", "there is an adapter on the model; fold it first"),
        ("nf4 >> top_layers(1)", "it trains weights, and the weights are quantized here"),
    ],
)
def test_refusals(text, reason, plan_context):
    at = plan_context(text, config={"num_hidden_layers": 2})
    (problem,) = refusals.problems(at.stage.main, at)
    assert problem.startswith(reason)
