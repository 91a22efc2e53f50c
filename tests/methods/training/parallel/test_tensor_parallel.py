"""Blocks that are divided among processes, against one process alone and against formulas."""

import re

import pytest
import torch
from torch import nn

from bench.stage import checkpoint
from bench.tasks.registry import open_task
from bench.testing import jobs
from tests.methods.training.parallel.test_divided import same, trained

BOTH = "data_parallel(2) + tensor_parallel(2)"
SHARDS = "fully_sharded(2) + tensor_parallel(2)"
BLOCKS, HIDDEN, INSIDE = 2, 32, 64
DIVIDED = BLOCKS * (3 * HIDDEN * (HIDDEN + 1) + HIDDEN**2 + INSIDE * (HIDDEN + 1) + HIDDEN * INSIDE)
"""The tiny BERT's weights inside the blocks, but for norms and the biases of what is added up."""


def activations(model, folder, items):
    """Bytes of the hidden states of so many items, as long as the longest of the probe batch."""
    _, tokenizer = checkpoint.load(folder / "checkpoints" / "node0.pt")
    task = open_task(jobs.table(folder), folder)
    probe = next(task.batches("train", tokenizer, batch_size=8, max_length=32))
    return 4 * items * probe.inputs["input_ids"].shape[1] * HIDDEN


def calls(rank):
    return {(call["processes"], call["bytes"]): call["calls"] for call in rank["collectives"]}


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["tensor_parallel(2)", BOTH])
@pytest.mark.parametrize(
    "text",
    [
        "full(lr=0.001) + dropout(0.0)",
        "full(lr=0.001) + dropout(0.0) + accumulate(2) + weight_decay(0.1)",
        'top_layers(1, lr=0.01) + dropout(0.0) + label_smoothing(0.1) + schedule("linear", warmup=0.1)',
        "head(lr=0.1) + dropout(0.0)",
        "bitfit(lr=0.01) + dropout(0.0) + gradient_checkpointing",
        "full(lr=0.001) + dropout(0.0) + gradient_clip(0.1)",
        'full + dropout(0.0) + gradient_checkpointing + optimizer("sgd", lr=0.05)',
    ],
)
def test_the_loss_curve_is_one_processs(text, divided, tiny_bert, tmp_path):
    same(text, divided, tiny_bert, tmp_path)


FEED_FORWARD = 'targets=["intermediate.dense", "output.dense"]'
"""BERT's, and the output layer of its attention."""
EVERY = 'targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]'


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["tensor_parallel(2)", BOTH])
@pytest.mark.parametrize(
    "text",
    [
        "lora(r=8, lr=0.01) + dropout(0.0)",
        f"lora(r=3, lr=0.01, {FEED_FORWARD}) + dropout(0.0) + accumulate(2)",
        f"lora(r=3, lr=0.01, {FEED_FORWARD}) + dropout(0.0) + gradient_checkpointing + gradient_clip(0.1)",
        'lora(r=8, lr=0.003, variant="rslora") + dropout(0.0)',
        f'lora(r=3, lr=0.01, {FEED_FORWARD}, variant="pissa") + dropout(0.0)',
    ],
)
def test_the_loss_curve_of_lora(text, divided, tiny_bert, tmp_path):
    same(text, divided, tiny_bert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["tensor_parallel(2)", BOTH])
def test_the_loss_curve_of_lora_in_a_language_model(divided, tiny_llama, tmp_path):
    same(f"lora(r=3, {EVERY}) + accumulate(2)", divided, tiny_llama, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("divided", ["tensor_parallel(2)", BOTH])
def test_the_loss_curve_of_a_language_model(divided, tiny_llama, tmp_path):
    # Four heads in two groups: each process has a group.
    same("full(lr=0.001) + accumulate(2)", divided, tiny_llama, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "full(lr=0.001) + dropout(0.0) + accumulate(2) + weight_decay(0.1)",
        "top_layers(1, lr=0.01) + dropout(0.0) + gradient_checkpointing + gradient_clip(0.1)",
        f"lora(r=3, lr=0.01, {FEED_FORWARD}) + dropout(0.0) + gradient_clip(0.1)",
        "ia3(lr=0.1) + dropout(0.0)",
    ],
)
def test_the_loss_curve_of_shards_of_parts(text, tiny_bert, tmp_path):
    same(text, SHARDS, tiny_bert, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["full(lr=0.001)", f"lora(r=3, {EVERY})"])
def test_the_loss_curve_of_shards_of_parts_of_a_language_model(text, tiny_llama, tmp_path):
    same(text, SHARDS, tiny_llama, tmp_path, task=jobs.prose(tmp_path))


@pytest.mark.slow
def test_three_ways_at_once(tiny_bert, tmp_path):
    together, _ = same(
        "full(lr=0.001) + dropout(0.0) + accumulate(2)", f"data_parallel(2) + {SHARDS}", tiny_bert, tmp_path
    )
    assert len(together["ranks"]) == 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Electra", "Mistral", "Qwen2", "Roberta"])
def test_the_loss_curve_of_other_models(kind, tiny_bert, tiny_llama, tmp_path):
    import transformers

    like = tiny_llama if kind in ("Mistral", "Qwen2") else tiny_bert
    tokenizer = transformers.AutoTokenizer.from_pretrained(like)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if like == tiny_llama:
        sizes["num_key_value_heads"] = 2
    else:
        sizes["embedding_size" if kind == "Electra" else "type_vocab_size"] = 32 if kind == "Electra" else 2
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=140, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    torch.manual_seed(0)
    folder = tmp_path / kind
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    same("full(lr=0.003) + dropout(0.0)", "tensor_parallel(2)", folder, tmp_path)


@pytest.mark.slow
def test_a_pruned_model(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("prune_ffn(0.25) >> full + tensor_parallel(2)", tiny_bert, tmp_path)
    assert status == "ok", reason
    status, reason, _ = jobs.run("prune_heads(0.5) >> full + tensor_parallel(2)", tiny_bert, tmp_path)
    assert status == "refused"
    assert "tensor_parallel: block 0: 1 attention heads cannot be divided among 2 processes" in reason


def test_what_a_process_holds_and_sends(tiny_bert, tmp_path):
    found, model = trained("full + tensor_parallel(2)", tiny_bert, tmp_path)
    every = sum(parameter.numel() for parameter in model.parameters())
    assert found["trainable"] == every
    hidden = activations(tiny_bert, tmp_path, 8)
    tensors = sum(1 for _ in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert found["samples"] == [8] * 10
    for rank in found["ranks"]:
        held = 4 * (every - DIVIDED // 2)
        assert rank["gradient_bytes"] == held
        assert rank["optimizer_bytes"] == 2 * held + 4 * tensors
        assert rank["weight_bytes"] == held + buffers
        # Attention and feed-forward of each block, forward and backward.
        assert calls(rank) == {(2, hidden): 4 * BLOCKS}
        assert rank["communicated_bytes"] == 2 * (2 - 1) / 2 * 4 * BLOCKS * hidden


@pytest.mark.parametrize(
    ("text", "expected"),
    # No gradient goes through the blocks; or only from the last block's end to what comes after its attention's input.
    [("head", 2 * BLOCKS), ("top_layers(1)", 2 * BLOCKS + 1)],
)
def test_a_gradient_is_added_up_where_one_goes_through(text, expected, tiny_bert, tmp_path):
    found, _ = trained(f"{text} + tensor_parallel(2)", tiny_bert, tmp_path)
    assert calls(found["ranks"][0]) == {(2, activations(tiny_bert, tmp_path, 8)): expected}


@pytest.mark.parametrize(
    ("text", "adapted", "expected"),
    [
        # Of query and value, A's gradient is added up in each block.
        ("lora(r=8)", {"gradient": (2 * BLOCKS, 8)}, 4 * BLOCKS - 1),
        # So it is of the layer that widens; of the two that are cut by inputs, what A gives.
        (f"lora(r=3, {FEED_FORWARD})", {"gradient": (BLOCKS, 3), "output": (2 * BLOCKS, 3)}, 4 * BLOCKS - 1),
    ],
)
def test_what_lora_adds_to_the_wire(text, adapted, expected, tiny_bert, tmp_path):
    found, model = trained(f"{text} + tensor_parallel(2)", tiny_bert, tmp_path)
    hidden = activations(tiny_bert, tmp_path, 8)
    # No gradient goes through the first block's attention to the embeddings, which are frozen.
    wanted = {(2, hidden): expected}
    for what, (count, r) in adapted.items():
        wanted[2, 4 * r * HIDDEN if what == "gradient" else hidden * r // HIDDEN] = count
    assert calls(found["ranks"][0]) == wanted
    # Of A and B, one is whole in each process.
    parts = {parameter for name, parameter in model.named_parameters() if _of_part(name)}
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = sum(parameter.numel() // (2 if parameter in parts else 1) for parameter in trains)
    assert found["trainable"] == sum(parameter.numel() for parameter in trains)
    assert [rank["gradient_bytes"] for rank in found["ranks"]] == [4 * held] * 2


def _of_part(name):
    return ("lora_A" if "output.dense" in name else "lora_B") in name


@pytest.mark.slow
def test_two_ways_at_once(tiny_bert, tmp_path):
    found, model = trained(f"full + {BOTH}", tiny_bert, tmp_path)
    every = sum(parameter.numel() for parameter in model.parameters())
    assert len(found["ranks"]) == 4
    hidden = activations(tiny_bert, tmp_path, 4)  # of half of the batch
    gradients = 4 * (every - DIVIDED // 2)
    for rank in found["ranks"]:
        made = calls(rank)
        assert made.pop((2, hidden)) == 4 * BLOCKS
        # The replicas' buckets hold the gradients of what a process has of the model.
        assert sum(size * count for (_, size), count in made.items()) == gradients
        assert rank["communicated_bytes"] == 4 * BLOCKS * hidden + gradients


@pytest.mark.slow
def test_shards_of_parts(tiny_bert, tmp_path):
    found, model = trained(f"full + {SHARDS}", tiny_bert, tmp_path)
    every = sum(parameter.numel() for parameter in model.parameters())
    padding = sum(parameter[0].numel() for parameter in model.parameters() if parameter.shape[0] % 2)
    held = 4 * (every - DIVIDED // 2 + padding) // 2
    hidden = activations(tiny_bert, tmp_path, 4)
    for rank in found["ranks"]:
        sums = dict.fromkeys(("all_gather", "reduce_scatter", "all_reduce"), 0)
        for call in rank["collectives"]:
            sums[call["operation"]] += call["calls"] * call["bytes"]
        assert sums == {"all_gather": 2 * 2 * held, "reduce_scatter": 2 * held, "all_reduce": 4 * BLOCKS * hidden}
        assert rank["gradient_bytes"] == held


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2"])
def test_the_layers_are_those_of_transformers_own_plan(kind):
    import transformers

    from methods.training.parallel.tensor_parallel import _pairs

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(vocab_size=10, num_key_value_heads=2, **sizes)
    model = getattr(transformers, f"{kind}Model")(config)
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    ours = {}
    for widening, narrowing in _pairs(model):
        ours |= {names[layer]: "colwise" for layer in widening} | {names[narrowing]: "rowwise"}
    patterns = {plan.replace(".", r"\.").replace("*", r"\d+"): how for plan, how in config.base_model_tp_plan.items()}
    theirs = {name: how for name in names.values() for at, how in patterns.items() if re.fullmatch(at, name)}
    assert ours == theirs
    assert len(ours) == 7 * BLOCKS
