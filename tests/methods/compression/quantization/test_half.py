"""Half precision against torch's own loading."""

import pytest
import torch

from bench.stage import checkpoint
from bench.testing import jobs
from tests import subjects
from tests.transforms import refusals

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_weights_take_two_bytes_and_the_model_is_the_one_that_transformers_loads(name, model, request, tmp_path):
    from transformers import AutoModel

    folder = request.getfixturevalue(model)
    status, reason, (record,) = jobs.run(f'half("{name}")', folder, tmp_path)
    assert status == "ok", reason
    ours, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    theirs = AutoModel.from_pretrained(folder, dtype=DTYPES[name])
    body = getattr(ours, ours.base_model_prefix)
    for (key, weight), other in zip(body.named_parameters(), theirs.parameters(), strict=True):
        assert weight.dtype == other.dtype, key
        assert torch.equal(weight, other), key
    assert {key: buffer.dtype for key, buffer in body.named_buffers()} == {
        key: buffer.dtype for key, buffer in theirs.named_buffers()
    }
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in ours.buffers())
    assert record["weight_bytes"] == 2 * record["parameters"]["total"] + buffers


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("lora(r=2) >> half", "fold it first"),
        ("full >> torch_int8_dynamic >> half", "fewer bits"),
        ("half >> full", "inference only"),
        ("half >> sparsegpt(0.5)", "inference only"),
        ('half >> sparse_2_4("sparsegpt")', "inference only"),
        ('half >> prune_ffn(0.5, "taylor")', "inference only"),
        ("half >> torch_int8_dynamic", "inference only"),
        ("half >> prune_ffn(0.5) >> full", "inference only"),
        ("half >> magnitude(0.5) >> lora", "inference only"),
        ('half("bf16") >> half("fp16")', "inference only"),
    ],
)
def test_refusals(recipe, said, monkeypatch):
    (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
    assert cell.refused
    assert any(said in reason for reason in cell.refused) or "quantized" in cell.refused[0], cell.refused


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize(
    "text",
    [
        "prune_ffn(0.5)", "prune_heads(0.5)", "prune_hidden(0.25)", 'drop_layers(1, "similarity", samples=16)',
        "low_rank(2)", "magnitude(0.5)", "wanda(0.5, samples=16)", "sparse_2_4", "prune_ffn(0.5) >> magnitude(0.3)",
    ],
)  # fmt: skip
def test_what_needs_no_training_can_follow(text, model, request, tmp_path):
    folder = request.getfixturevalue(model)
    kind = "fp16" if model == "tiny_llama" else "bf16"
    recipe = f'half("{kind}") >> {text}'
    assert refusals(recipe, folder, tmp_path) == ()
    status, reason, _ = jobs.run(recipe, folder, tmp_path)
    assert status == "ok", reason
    ours, _ = checkpoint.load(tmp_path / "checkpoints" / f"node{recipe.count('>>')}.pt")
    assert {parameter.dtype for parameter in ours.parameters()} == {DTYPES[kind]}
