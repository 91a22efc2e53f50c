"""NF4 and FP4 against tables written out here, and each trap of bitsandbytes on a CPU."""

import copy

import pytest
import torch
import transformers
from torch import nn

from bench.models.architecture import block_linears
from bench.stage.evidence import digest
from bench.testing import jobs
from methods import _quantized
from methods.compression.quantization._shared import packing
from tests.transforms import applied, logits, refusals, remade

VALUES = {
    "nf4": [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    "fp4": [sign * value / 12 for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3)],
}  # fmt: skip
"""QLoRA's appendix E; and for FP4 sign, two bits of exponent, one of mantissa, in bitsandbytes' order."""

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

FOUR_BITS = ["nf4", "fp4", "nf4(double_quant=False)", "fp4(double_quant=False)"]


def nearest(weight, values):
    """`weight` in blocks of 64 of all its rows in a line, each value the nearest in steps of the block's largest."""
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    largest = flat.abs().amax(1, keepdim=True)
    table = torch.tensor(values)
    codes = (flat / largest.clamp(min=1e-30)).unsqueeze(-1).sub(table).abs().argmin(-1)
    return (table[codes] * largest).flatten()[: weight.numel()].view_as(weight)


def uneven(rows, columns):
    """Weights whose blocks of 64 differ in size up to fifty times, so that no block can pass for another."""
    torch.manual_seed(rows * columns)
    weight = torch.randn(rows * columns)
    blocks = -(-len(weight) // 64)
    return (weight * torch.rand(blocks).mul(4).exp().repeat_interleave(64)[: len(weight)]).view(rows, columns)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("rows", [1, 5, 32, 33])
@pytest.mark.parametrize("columns", [2, 16, 30, 32, 48, 64, 80, 96, 128, 400])
def test_rows_of_any_length_are_unpacked_right(columns, rows, kind):
    from methods.compression.quantization._shared import bitsandbytes_layers as layers

    plain = nn.Linear(columns, rows, bias=False)
    plain.weight.data = uneven(rows, columns)
    layer = layers.four_bits(plain, kind, double_quant=False, compute_dtype="fp32")
    found = _quantized.effective(layer, plain.weight)
    torch.testing.assert_close(found, nearest(plain.weight.detach(), VALUES[kind]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_gradients_see_the_same_weight(kind):
    from methods.compression.quantization._shared import bitsandbytes_layers as layers

    plain = nn.Linear(48, 33)
    plain.weight.data = uneven(33, 48)
    layer = layers.four_bits(plain, kind, double_quant=False, compute_dtype="fp32")
    inputs = torch.eye(48, requires_grad=True)
    layer(inputs).sum().backward()
    expected = nearest(plain.weight.detach(), VALUES[kind]).sum(0).expand(48, 48)
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-4, atol=1e-4)


def test_errors_on_normal_weights_are_those_of_the_literature():
    from methods.compression.quantization._shared import bitsandbytes_layers as layers

    torch.manual_seed(0)
    plain = nn.Linear(512, 512, bias=False)
    nn.init.normal_(plain.weight)

    def error(layer):
        return float((_quantized.effective(layer, plain.weight) - plain.weight.detach()).square().mean().sqrt())

    four = [layers.four_bits(plain, kind, double_quant=False, compute_dtype="fp32") for kind in ("nf4", "fp4")]
    scale = packing.steps(plain.weight.detach(), 4, 64)
    codes = packing.nearest(plain.weight.detach(), packing.spread(scale, 64, 512), 4)
    int4 = packing.PackedLinear(plain, codes, scale, bits=4, group_size=64)
    e2m1 = [sign * value / 6 for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
    standard = float((nearest(plain.weight.detach(), e2m1) - plain.weight.detach()).square().mean().sqrt())
    found = [error(four[0]), standard, error(int4), error(four[1])]
    # bitsandbytes' FP4 has a value near 0 that the standard's does not waste.
    assert found == pytest.approx([0.092, 0.106, 0.1075, 0.122], abs=0.0015)
    assert found == sorted(found)


@pytest.mark.parametrize("text", FOUR_BITS)
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_evaluation_repacks_nothing_and_what_is_saved_loads_the_same(fixture, text, request, tmp_path):
    _, done = applied(text, request.getfixturevalue(fixture), tmp_path)
    weights = {name: digest(weight) for name, weight in done.model.named_parameters()}
    seen = logits(done.model.eval(), done)
    assert {name: digest(weight) for name, weight in done.model.named_parameters()} == weights
    done.model.save_pretrained(tmp_path / "saved")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    kinds = {name: type(module) for name, module in done.model.named_modules()}
    assert {name: type(module) for name, module in loaded.named_modules()} == kinds
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    assert torch.equal(logits(loaded, done), seen)


@PEFT_WARNS
@pytest.mark.parametrize("text", FOUR_BITS)
def test_gradients_flow_through_it_after_an_evaluation(text, tiny_bert, tmp_path):
    import peft

    _, done = applied(text, tiny_bert, tmp_path)
    gradients = []
    for evaluate_first in (False, True):
        model = copy.deepcopy(done.model)
        if evaluate_first:
            logits(model.eval(), done)
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="SEQ_CLS")).eval()
        done.task.criterion(adapted(**done.probe.inputs), done.probe).backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
        assert any(type(module).__name__ == "Linear4bit" and hasattr(module, "lora_A") for module in adapted.modules())
    first, second = gradients
    assert len([name for name in first if "lora_B" in name]) == 4
    assert all(bool(first[name].any()) for name in first if "lora_B" in name)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_widths_that_its_kernel_could_not_take_evaluate(tiny_bert, tmp_path):
    config = transformers.BertConfig(
        vocab_size=141, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80
    )
    model = remade(config, tiny_bert, tmp_path / "odd")
    for text in ("nf4", "fp4", "bnb_int8", "int4", "gptq(samples=16)", "awq(samples=16)", "torchao_int8_dynamic"):
        applied(text, model, tmp_path)


@pytest.mark.parametrize("text", FOUR_BITS)
def test_a_pickle_gives_back_what_it_was_and_its_scales_move_with_it(text, tiny_bert, tmp_path, monkeypatch):
    import bitsandbytes

    _, done = applied(text, tiny_bert, tmp_path)
    seen = logits(done.model.eval(), done)
    torch.save(done.model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    kinds = {name: type(weight) for name, weight in done.model.named_parameters()}
    assert {name: type(weight) for name, weight in loaded.named_parameters()} == kinds
    moved = []
    monkeypatch.setattr(bitsandbytes.functional.QuantState, "to", lambda state, device: moved.append(id(state)))
    loaded.to("cpu")
    assert set(moved) == {id(layer.weight.quant_state) for layer in block_linears(loaded).values()}
    assert torch.equal(logits(loaded, done), seen)


def test_only_the_blocks_are_quantized(tiny_llama, tmp_path):
    original, done = applied("nf4", tiny_llama, tmp_path)
    kinds = {name: type(module).__name__ for name, module in done.model.named_modules()}
    assert {name for name, kind in kinds.items() if kind == "Linear4bit"} == block_linears(original).keys()
    assert kinds["score"] == "Linear"


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("text", ["nf4 >> lora(r=2)", 'fp4(compute_dtype="bf16") >> lora(r=2) + mixed_precision'])
def test_adapters_train_on_it(text, fixture, request, tmp_path):
    status, reason, records = jobs.run(text, request.getfixturevalue(fixture), tmp_path, budget={"steps": 3})
    assert status == "ok", reason
    losses = records[-1]["training"]["losses"]
    assert len(losses) == 3


@PEFT_WARNS
def test_folding_into_it_would_change_the_outputs(tiny_bert, tmp_path):
    import peft

    _, done = applied("nf4", tiny_bert, tmp_path)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(done.model, peft.LoraConfig(r=2, init_lora_weights=False)).eval()
    unmerged = logits(adapted, done)
    with pytest.warns(UserWarning, match="rounding errors"):
        merged = adapted.merge_and_unload()
    assert float((logits(merged, done) - unmerged).abs().max() / unmerged.abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nf4 >> fp4", "quantized already"),
        ("bnb_int8 >> nf4", "quantized already"),
        ("lora(r=2) >> nf4", "… >> merge >> nf4"),
        ("nf4 >> full", "put an adapter on them"),
        ("nf4 >> lora(r=2) >> merge", "leave the adapter on"),
    ],
)
def test_what_cannot_be_is_refused(text, why, tiny_bert, tmp_path):
    assert any(why in reason for reason in refusals(text, tiny_bert, tmp_path))
