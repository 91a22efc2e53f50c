"""torchao's formats against hand computations."""

import pytest
import torch
from torch import nn
from torchao.utils import should_reduce_range
from transformers import AutoConfig

from bench.measure import memory
from bench.models.architecture import block_linears
from methods import _quantized
from tests import jobs
from tests.transforms import applied, logits, refusals

TEXTS = ["torchao_int8_weight_only", "torchao_int8_dynamic", "torchao_int4_weight_only(group_size=32)"]


def rounded(rows, top=127):
    """Each row to codes from −128 to 127, steps of a 127.5th of its largest magnitude; or as far as `top`."""
    step = rows.abs().amax(1, keepdim=True) / (top + 0.5)
    return (rows * (1 / step)).round().clamp(-top - 1, top) * step


@pytest.mark.parametrize("text", ["torchao_int8_weight_only", "torchao_int8_dynamic"])
def test_products_are_those_of_rounded_rows(text, tiny_bert, tmp_path):
    original, done = applied(text, tiny_bert, tmp_path)
    torch.manual_seed(0)
    inputs = torch.randn(7, 32)
    path = "bert.encoder.layer.1.intermediate.dense"
    plain, layer = original.get_submodule(path), done.model.get_submodule(path)
    # On a CPU without VNNI one bit is left unused where both are rounded.
    top = 63 if text == "torchao_int8_dynamic" and should_reduce_range(torch.device("cpu")) else 127
    taken = rounded(inputs, top) if text == "torchao_int8_dynamic" else inputs
    with torch.no_grad():
        expected = taken @ rounded(plain.weight, top).T + plain.bias
        torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)


def test_four_bits_are_sixteen_steps_from_the_smallest_to_the_largest_of_a_group(tiny_bert, tmp_path):
    original, done = applied("torchao_int4_weight_only(group_size=32)", tiny_bert, tmp_path)
    path = "bert.encoder.layer.0.output.dense"
    groups = original.get_submodule(path).weight.detach().view(-1, 32)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = (high - low) / 15
    expected = ((groups - low) / step).round() * step + low
    found = _quantized.effective(done.model.get_submodule(path), original.get_submodule(path).weight).reshape(-1, 32)
    # Weights, steps and zero points are in bfloat16, so a few weights fall to the neighbouring code.
    off = (found - expected).abs() / step
    assert float((off > 0.1).float().mean()) < 0.05
    assert float(off.max()) < 1.2


def test_the_layers_multiply_in_bfloat16_and_give_what_they_were_given(tiny_bert, tmp_path):
    _, done = applied("torchao_int4_weight_only(group_size=32)", tiny_bert, tmp_path)
    layer = next(iter(block_linears(done.model).values()))
    inputs = torch.randn(3, 32)
    with torch.no_grad():
        found = layer(inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_a_pickle_and_what_is_shipped_give_back_what_it_was(fixture, text, request, tmp_path):
    original, done = applied(text, request.getfixturevalue(fixture), tmp_path)
    seen = logits(done.model.eval(), done)
    torch.save(done.model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(logits(loaded, done), seen)
    assert done.stage.main.save(done.model, tmp_path)
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    for layer in block_linears(loaded).values():
        layer.weight = nn.Parameter(torch.zeros(layer.weight.shape))
    loaded.load_state_dict(state, assign=True)
    assert torch.equal(logits(loaded, done), seen)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == 32
    counts = memory.parameter_counts(done.model), memory.parameter_counts(original)
    assert counts[0]["total"] == counts[1]["total"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("torchao_int4_weight_only(group_size=64)", "32 and 64 are not both multiples of 64"),
        ("prune_ffn(0.5) >> torchao_int4_weight_only(group_size=32)", "the layers were cut before"),
        ("torchao_int8_dynamic >> torchao_int8_weight_only", "quantized already"),
        ("torchao_int8_dynamic >> lora(r=2)", "inference only"),
        ("lora(r=2) >> torchao_int8_dynamic", "… >> merge >> torchao_int8_dynamic"),
    ],
)
def test_what_cannot_be_is_refused(text, why, tiny_bert, tmp_path):
    assert any(why in reason for reason in refusals(text, tiny_bert, tmp_path)), refusals(text, tiny_bert, tmp_path)


@pytest.mark.parametrize("text", ["torchao_int8_weight_only", "torchao_int8_dynamic"])
def test_layers_of_one_input_are_refused_where_they_are_seen(text, tiny_bert, tmp_path):
    assert "layers with a single input" in refusals(f"low_rank(1) >> {text}", tiny_bert, tmp_path)[0]
    # Which rank an energy leaves is known when the factors are there.
    assert refusals(f"low_rank(energy=0.1) >> {text}", tiny_bert, tmp_path) == ()
    status, reason, _ = jobs.run(f"low_rank(energy=0.1) >> {text}", tiny_bert, tmp_path)
    assert status == "refused"
    assert reason.startswith(f"{text}: bert.encoder.layer.0.attention.self.query.1 has a single input: torchao cannot")
    assert "use bnb_int8 or torch_int8_dynamic" in reason
    for other in ("bnb_int8", "torch_int8_dynamic"):
        assert jobs.run(f"low_rank(energy=0.1) >> {other}", tiny_bert, tmp_path)[0] == "ok"
