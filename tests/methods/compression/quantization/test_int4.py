"""The packed layer, and rounding to the nearest, against loops."""

import pytest
import torch
from torch import nn

from bench.measure import memory
from methods.compression.quantization._shared import packing
from tests.transforms import applied, logits


def by_hand(weight, group_size, top=7):
    """Each group of a row in steps of a `top`-th of its largest magnitude, weight by weight."""
    found = torch.zeros_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group_size):
            group = weight[row, start : start + group_size]
            step = (group.abs().max() / top).half().float()
            found[row, start : start + group_size] = (group / step).round().clamp(-top, top) * step
    return found


def packed(plain, bits, group_size):
    scale = packing.steps(plain.weight.detach(), bits, group_size)
    step = packing.spread(scale, group_size, plain.in_features)
    codes = packing.nearest(plain.weight.detach(), step, bits)
    return packing.PackedLinear(plain, codes, scale, bits=bits, group_size=group_size)


@pytest.mark.parametrize(("bits", "top"), [(4, 7), (8, 127)])
@pytest.mark.parametrize("columns", [1, 2, 31, 32, 33, 64, 75, 128])
def test_it_holds_the_nearest_codes_whatever_the_row_s_length(columns, bits, top):
    torch.manual_seed(columns)
    plain = nn.Linear(columns, 5)
    layer = packed(plain, bits, 32)
    expected = by_hand(plain.weight.detach(), 32, top)
    torch.testing.assert_close(layer.unpacked(), expected, rtol=1e-6, atol=1e-9)
    inputs = torch.randn(3, columns)
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs), inputs @ expected.T + plain.bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_every_code_comes_back(bits):
    top = packing.top(bits)
    codes = torch.arange(-top, top + 1).repeat(2, 1)
    found = packing.unpack(packing.pack(codes, bits, 2), bits)[:, : codes.shape[1]].int() - top
    assert torch.equal(found, codes.int())


def test_a_weight_takes_four_bits_and_a_group_two_bytes_more():
    plain = nn.Linear(128, 48, bias=False)
    layer = packed(plain, 4, 64)
    assert memory.storage_bytes(layer) == 48 * 128 // 2 + 48 * 2 * 2
    assert memory.parameter_counts(layer)["total"] == 48 * 128
    assert memory.parameter_counts(layer)["nonzero"] == int(layer.unpacked().count_nonzero())


def test_a_group_of_zeros_stays_zero():
    plain = nn.Linear(64, 3, bias=False)
    plain.weight.data[:, :32] = 0
    found = packed(plain, 4, 32).unpacked()
    assert not found[:, :32].any()
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("text", ["int4", "gptq(samples=16)", "awq(samples=16, bits=8)"])
def test_a_pickle_and_what_is_shipped_give_back_what_it_was(text, fixture, request, tmp_path):
    original, done = applied(text, request.getfixturevalue(fixture), tmp_path)
    seen = logits(done.model.eval(), done)
    torch.save(done.model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(logits(loaded, done), seen)
    for buffer in loaded.buffers():
        if buffer.dtype in (torch.uint8, torch.float16):
            buffer.zero_()
    loaded.load_state_dict(done.model.state_dict())
    assert torch.equal(logits(loaded, done), seen)
    assert memory.parameter_counts(done.model)["total"] == memory.parameter_counts(original)["total"]
