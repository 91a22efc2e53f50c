"""Half precision against torch's own loading."""

import pytest
import torch

from bench import checkpoint
from tests import jobs, subjects

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
        ("full >> dynamic_int8 >> half", "fewer bits"),
        ("half >> full", "inference only"),
        ("half >> magnitude(0.5)", ""),
        ('half("bf16") >> half("fp16")', "inference only"),
    ],
)
def test_refusals(recipe, said, monkeypatch):
    (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
    assert cell.refused
    assert any(said in reason for reason in cell.refused) or "quantized" in cell.refused[0], cell.refused
