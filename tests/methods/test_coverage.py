"""No weight matrix of the blocks is left out, whatever a method takes for the blocks or for their layers."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.models import architecture
from bench.stage.evidence import take
from methods import _coverage
from tests.transforms import refuted

METHODS = [
    "torch_int8_dynamic", "bnb_int8", "nf4", "int4", "gptq(samples=16)", "awq(samples=16)", "torchao_int8_weight_only", "torchao_int8_dynamic",
    "magnitude(0.5)", "magnitude(0.5, 'layer')", "wanda(0.5, samples=16)", "torchao_wanda(0.5, samples=16)", "sparsegpt(0.5, samples=16)", "sparse_2_4",
    "low_rank(4)", "low_rank(energy=0.5)",
]  # fmt: skip


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("missing", ["layer.0", "layer.1.output.dense"])
def test_a_method_that_does_not_find_all_layers_is_found_out(text, missing, tiny_bert, tmp_path, monkeypatch):
    from methods.compression.quantization._shared import torchao

    whole = architecture.block_linears

    def part(model):
        return {name: layer for name, layer in whole(model).items() if missing not in name}

    monkeypatch.setattr(architecture, "block_linears", part)
    if "int8_" in text:
        monkeypatch.setattr(torchao, "block_linears", part)
    found = refuted(text, tiny_bert, tmp_path, lambda done: None)
    assert any(claim.startswith("all weight matrices of the blocks are ") for claim in found), found


@pytest.mark.parametrize("text", ["int4", "torch_int8_dynamic", "magnitude(0.5)", "low_rank(4)"])
def test_a_weight_that_is_no_linear_layers_is_not_overlooked(text, tiny_bert, tmp_path):
    def experts(done):
        architecture.blocks(done.model)[0].experts = nn.Parameter(torch.randn(2, 3, 4))

    found = refuted(text, tiny_bert, tmp_path, lambda done: None, first=experts)
    assert any(claim.startswith("all weight matrices of the blocks are ") for claim in found), found


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 4)
        self.old = Conv1D(4, 4)
        self.experts = nn.Parameter(torch.randn(2, 3, 4))
        self.norm = nn.LayerNorm(4)
        self.places = nn.Embedding(8, 4)
        self.register_buffer("mask", torch.ones(8, 8))
        self.codes = nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 2)


def test_matrices_are_told_by_their_names():
    model = Model()
    before = take(model, None)
    expected = {f"layers.{n}.{name}" for n in (0, 1) for name in ("project.weight", "old.weight", "experts")}
    assert _coverage.matrices(before, model) == expected
    assert _coverage.weights(model).keys() == {name.removesuffix(".weight") for name in expected}


class Done:
    def __init__(self, model):
        self.model = model


def test_others_are_no_part_of_it_and_what_is_outside_is_said():
    model = Model()
    before = take(model, None)
    wanted = _coverage.matrices(before, model)
    assert _coverage.covers(before, Done(model), wanted, "done").holds
    assert not _coverage.covers(before, Done(model), wanted | {"head.weight"}, "done").holds
    claim = _coverage.covers(before, Done(model), wanted - {"layers.1.experts"}, "done")
    assert not claim.holds
    assert claim.seen == "5 of 6, 0 others; not layers.1.experts; outside of blocks are embeddings, head"
