"""Stages that are divided among two processes, against one process alone and against formulas."""

import pytest
import torch
import transformers

from bench.stage import checkpoint
from bench.tasks.kinds.classification import ClassificationTable
from bench.tasks.registry import open_task
from bench.testing import jobs

BUDGET = {"steps": 10, "batch_size": 8}


def trained(text, model, folder, **keys):
    """What one stage measured, and the model that it left."""
    status, reason, (*_, record) = jobs.run(text, model, folder, budget=BUDGET, **keys)
    assert status == "ok", reason
    depth = text.count(">>")
    return record["training"], checkpoint.load(folder / "checkpoints" / f"node{depth}.pt")[0]


def same(text, divided, model, folder, **keys):
    """That training comes out the same, divided or not; returns the divided one's figures and model."""
    alone, reference = trained(text, model, folder, **keys)
    together, found = trained(f"{text} + {divided}", model, folder, **keys)
    losses = torch.tensor([alone["losses"], together["losses"]])
    assert torch.allclose(losses[0], losses[1], rtol=0, atol=1e-4), losses
    assert (losses[0, 0] - losses[0, -1]).abs() > 1e-3  # it does learn, so the curves could differ
    assert alone["tokens"] == together["tokens"]
    assert alone["samples"] == together["samples"]
    assert {name: type(module) for name, module in reference.named_modules()} == {
        name: type(module) for name, module in found.named_modules()
    }
    for (name, ours), theirs in zip(found.named_parameters(), reference.parameters(), strict=True):
        assert type(ours) is type(theirs)
        assert torch.allclose(ours, theirs, atol=2e-3), name
    return together, found


HYBRID = "data_parallel(2) + fully_sharded(2)"


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["data_parallel(2)", "fully_sharded(2)", HYBRID])
@pytest.mark.parametrize(
    "text",
    [
        "full(lr=0.001) + dropout(0.0)",
        "full(lr=0.001) + dropout(0.0) + accumulate(2)",
        "lora(r=2, lr=0.01) + dropout(0.0)",
        "lora(r=2, lr=0.01) + dropout(0.0) + accumulate(2)",
    ],
)
def test_the_loss_curve_is_one_processs(text, divided, tiny_bert, tmp_path):
    same(text, divided, tiny_bert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["data_parallel(2)", "fully_sharded(2)", "tensor_parallel(2)"])
@pytest.mark.parametrize(
    "text",
    [
        "adapter(8, lr=0.01) + dropout(0.0) + gradient_checkpointing",
        'adapter(8, "pfeiffer", lr=0.01) + dropout(0.0)',
        "ia3(lr=0.1) + dropout(0.0) + accumulate(2)",
        "bitfit(lr=0.01) + dropout(0.0)",
    ],
)
def test_the_loss_curve_of_few_weights(text, divided, tiny_bert, tmp_path):
    same(text, divided, tiny_bert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["data_parallel(2)", "fully_sharded(2)", "tensor_parallel(2)"])
@pytest.mark.parametrize("text", ["adapter(8)", "ia3(lr=0.1)"])
def test_the_loss_curve_of_few_weights_in_a_language_model(text, divided, tiny_llama, tmp_path):
    same(text, divided, tiny_llama, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["data_parallel(2)", "fully_sharded(2)", HYBRID])
def test_the_loss_curve_of_a_language_model(divided, tiny_llama, tmp_path):
    # Items of different lengths: slices of equal numbers of items differ in predicted tokens.
    same("full(lr=0.001) + accumulate(2)", divided, tiny_llama, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "full(lr=0.001) + dropout(0.0) + gradient_clip(0.1) + weight_decay(0.1)",
        "top_layers(1, lr=0.01) + dropout(0.0) + gradient_checkpointing + accumulate(2)",
        "magnitude(0.5) >> full(lr=0.001) + dropout(0.0)",
        "adapter(8, lr=0.01) + dropout(0.0)",
        "bitfit(lr=0.01) + dropout(0.0)",
    ],
)
def test_replicas_of_shards(text, tiny_bert, tmp_path):
    same(text, HYBRID, tiny_bert, tmp_path)


@pytest.mark.parametrize("divided", ["data_parallel(1)", "fully_sharded(1)", "tensor_parallel(1)"])
def test_a_world_of_one(divided, tiny_bert, tmp_path):
    found, _ = trained(f"lora(r=2, lr=0.01) + {divided}", tiny_bert, tmp_path)
    assert found["communicated_bytes"] == 0
    assert len(found["ranks"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "divided", ["data_parallel(1)", "fully_sharded(1)", "tensor_parallel(1)", "data_parallel(1) + fully_sharded(1)"]
)
def test_the_loss_curve_in_a_world_of_one(divided, tiny_bert, tmp_path):
    same("full(lr=0.001) + dropout(0.0) + accumulate(2)", divided, tiny_bert, tmp_path)


@pytest.mark.slow
def test_four_processes(tiny_bert, tmp_path):
    together, _ = same("full(lr=0.001) + dropout(0.0)", "data_parallel(4)", tiny_bert, tmp_path)
    parameters = together["trainable"]
    assert [rank["communicated_bytes"] for rank in together["ranks"]] == [round(2 * 3 / 4 * 4 * parameters)] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "divided", ["data_parallel(2)", "fully_sharded(2)", "tensor_parallel(2)", "pipeline_parallel(2, 2)"]
)
def test_mixed_precision_goes_with_each(divided, tiny_bert, tmp_path):
    text = "full(lr=0.001) + dropout(0.0) + mixed_precision"
    alone, _ = trained(text, tiny_bert, tmp_path)
    together, _ = trained(f"{text} + {divided}", tiny_bert, tmp_path)
    assert together["losses"] == pytest.approx(alone["losses"], abs=2e-2)


def test_an_all_reduce_of_the_gradients_is_on_the_wire(tiny_bert, tmp_path):
    found, _ = trained("full + data_parallel(2) + accumulate(2)", tiny_bert, tmp_path)
    size = 4 * found["trainable"]
    # 2 (n - 1) / n of the gradients, once a step and not once a micro-batch.
    assert found["communicated_bytes"] == 2 * (2 - 1) / 2 * size
    for rank in found["ranks"]:
        assert sum(call["calls"] * call["bytes"] for call in rank["collectives"]) == size
        assert rank["gradient_bytes"] == size


def test_a_step_takes_as_long_as_its_slowest_process(tiny_bert, tmp_path):
    found, _ = trained("full + data_parallel(2)", tiny_bert, tmp_path)
    pairs = list(zip(*(rank["step_seconds"] for rank in found["ranks"]), strict=True))
    assert found["step_seconds"] == [max(pair) for pair in pairs]
    assert len(pairs) == 10
    assert found["samples"] == [8] * 10
    assert sum(rank["step_flops"] for rank in found["ranks"]) == found["step_flops"]


def test_processes_that_shard_hold_half(tiny_bert, tmp_path):
    whole, _ = trained("full + data_parallel(2)", tiny_bert, tmp_path)
    half, model = trained("full + fully_sharded(2)", tiny_bert, tmp_path)
    # A tensor with an odd number of rows is padded by one row, and each has a counter of steps in the optimizer.
    padding = sum(4 * p[0].numel() if p.dim() else 4 for p in model.parameters() if not p.dim() or p.shape[0] % 2)
    steps = 4 * sum(1 for _ in model.parameters())
    for rank in half["ranks"]:
        size = whole["gradient_bytes"] / 2
        assert size <= rank["gradient_bytes"] <= size + padding
        state = (whole["optimizer_bytes"] - steps) / 2
        assert state - 2 * padding <= rank["optimizer_bytes"] - steps <= state + 2 * padding
        buffers = sum(b.numel() * b.element_size() for b in model.buffers())
        assert size <= rank["weight_bytes"] - buffers <= size + padding
        # Gathered twice and scattered once, each (n - 1) / n of what is there.
        assert 3 * size <= rank["communicated_bytes"] <= 3 * (size + padding)
    # Weights that are gathered for a moment are no activations.
    assert half["activation_bytes"] == pytest.approx(whole["activation_bytes"], rel=0.02)


def padded(model, n):
    """Bytes of a process's shard of every tensor, as long as the first's."""
    return sum(4 * -(-p.shape[0] // n) * p[0].numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_replicas_exchange_their_shards(parts, tiny_bert, tmp_path):
    accumulate = f" + accumulate({parts})" * (parts > 1)
    found, model = trained(f"full + {HYBRID}{accumulate}", tiny_bert, tmp_path)
    shard = padded(model, 2)
    for rank in found["ranks"]:
        sums = dict.fromkeys(("all_gather", "reduce_scatter", "all_reduce"), 0)
        for call in rank["collectives"]:
            sums[call["operation"]] += call["calls"] * call["bytes"]
        # Weights are gathered twice and gradients scattered once a micro-batch, and exchanged once a step.
        assert sums == {"all_gather": parts * 4 * shard, "reduce_scatter": parts * 2 * shard, "all_reduce": shard}
        assert rank["communicated_bytes"] == parts * 3 * shard + shard
        assert rank["gradient_bytes"] == shard
    assert found["samples"] == [8] * 10


@pytest.mark.parametrize("rank", [1, 4])
def test_powersgd_sends_the_factors(rank, tiny_bert, tmp_path):
    text = f'full + data_parallel(2) + compressed_gradients("powersgd", rank={rank})'
    found, model = trained(text, tiny_bert, tmp_path)
    expected = 0
    for parameter in model.parameters():
        rows, columns = parameter.shape if parameter.dim() == 2 else (1, parameter.numel())
        sent = (rows + columns) * rank
        expected += 4 * (sent if parameter.dim() == 2 and 2 * sent < rows * columns else rows * columns)
    assert found["communicated_bytes"] == expected


@pytest.mark.slow
def test_powersgd_of_several_buckets(tiny_bert, tmp_path):
    # More than the 25 MB of a bucket: its collectives come from several threads, and must meet in one order.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    sizes = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 1024}
    config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    text = 'full + data_parallel(2) + compressed_gradients("powersgd", rank=4)'
    for _ in range(3):
        trained(text, tmp_path / "wide", tmp_path)


def test_fp16_sends_half(tiny_bert, tmp_path):
    found, _ = trained('full + data_parallel(2) + compressed_gradients("fp16")', tiny_bert, tmp_path)
    assert found["communicated_bytes"] == 2 * found["trainable"]


def test_powersgd_of_nothing_that_it_would_compress_is_refused(tiny_bert, tmp_path):
    text = 'full + data_parallel(2) + compressed_gradients("powersgd", rank=1000)'
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path, budget=BUDGET)
    assert status == "refused"
    assert "and so it does all that full trains; lower rank, or send fp16" in reason


@pytest.mark.parametrize("divided", ["data_parallel(2)", "fully_sharded(2)"])
def test_fewer_items_than_a_batch_which_the_processes_do_not_divide(divided, tiny_bert, tmp_path):
    rows = [f"item {number} {['bad', 'good'][number % 2]} thing,{'ab'[number % 2]}" for number in range(8)]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *rows]))
    few = ClassificationTable(kind="classification", data=str(tmp_path / "few.csv"))
    assert open_task(few, tmp_path).training_items() == 3
    found, _ = trained(f"full + {divided}", tiny_bert, tmp_path, task=few)
    assert found["samples"] == [8] * 10
