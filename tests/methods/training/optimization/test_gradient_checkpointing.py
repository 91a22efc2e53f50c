"""GradientCheckpointing against the same step without it: gradients, forward passes, saved bytes and FLOPs."""

import pickle

import pytest
import torch

from bench.models.architecture import blocks
from bench.testing import jobs
from tests.trainings import gradient, prepared

TRAINERS = ["full", "lora(r=2)", "head"]


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def inner_calls(training):
    """How often each block's first linear layer runs in one step."""
    calls = []
    for block in blocks(training.model):
        layer = next(module for module in block.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_pre_hook(lambda module, args: calls.append(module))
    training.gradients(training.probe, 1.0)
    return len(calls)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_gradient_is_that_of_no_checkpoints(model, tmp_path, trainer):
    plain = prepared(trainer, model, tmp_path)
    checkpointed = prepared(f"{trainer} + gradient_checkpointing", model, tmp_path)
    # Dropout is on: what is computed again must drop the same.
    assert torch.equal(gradient(checkpointed), gradient(plain))


@pytest.mark.parametrize(("trainer", "passes"), [("full", 2), ("lora(r=2)", 2), ("head", 1)])
def test_blocks_run_twice_where_a_gradient_goes_through_them(model, tmp_path, trainer, passes):
    assert inner_calls(prepared(trainer, model, tmp_path)) == 2
    # Nothing is backpropagated through a frozen body: checkpoints must not draw it in.
    assert inner_calls(prepared(f"{trainer} + gradient_checkpointing", model, tmp_path)) == 2 * passes


def test_with_micro_batches_too(model, tmp_path):
    assert inner_calls(prepared("full + gradient_checkpointing + accumulate(4)", model, tmp_path)) == 2 * 4 * 2


@pytest.mark.parametrize("trainer", TRAINERS)
def test_it_is_proven(model, tmp_path, trainer):
    status, reason, (record,) = jobs.run(f"{trainer} + gradient_checkpointing", model, tmp_path)
    assert status == "ok", reason
    seen = next(claim["seen"] for claim in record["evidence"] if "computes again" in claim["text"])
    assert seen.startswith("0 of 0" if trainer == "head" else "2 of 2")


def test_records_show_fewer_saved_bytes_and_the_forward_pass_again(tiny_bert, tmp_path):
    plain, checkpointed = (
        jobs.run(text, tiny_bert, tmp_path)[2][0]["training"] for text in ("full", "full + gradient_checkpointing")
    )
    assert checkpointed["activation_bytes"] < 0.4 * plain["activation_bytes"]
    # Of the probe batch: 4 projections, 2 feed-forward layers, and attention's two products, in 2 blocks.
    training = prepared("full", tiny_bert, tmp_path, batch_size=8, max_length=32)
    items, length = training.probe.inputs["input_ids"].shape
    block = 2 * items * length * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * items * length * length * 32
    assert checkpointed["step_flops"] - plain["step_flops"] == 2 * block
    assert checkpointed["gradient_bytes"] == plain["gradient_bytes"]


def test_with_a_head_alone_nothing_is_computed_again_and_nothing_more_saved(model, tmp_path):
    plain, checkpointed = (
        jobs.run(text, model, tmp_path)[2][0]["training"] for text in ("head", "head + gradient_checkpointing")
    )
    assert checkpointed["step_flops"] == plain["step_flops"]
    assert checkpointed["activation_bytes"] == plain["activation_bytes"]


def test_it_leaves_the_model_as_it_was(model, tmp_path):
    training = prepared("full + gradient_checkpointing", model, tmp_path)
    training.run()
    training.finish()
    again = pickle.loads(pickle.dumps(training.model))
    assert not any(getattr(module, "gradient_checkpointing", False) for module in again.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in again.modules())
    again.train()
    with torch.no_grad():
        torch.manual_seed(0)
        again(**training.probe.inputs)


def test_the_next_training_is_not_checkpointed(tiny_bert, tmp_path):
    _, _, (_, healed) = jobs.run("full + gradient_checkpointing >> full", tiny_bert, tmp_path)
    _, _, (_, plain) = jobs.run("full >> full", tiny_bert, tmp_path)
    assert healed["training"]["step_flops"] == plain["training"]["step_flops"]
