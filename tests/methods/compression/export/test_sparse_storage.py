"""Compressed rows against the dense layer, and their bytes against the formula."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file

from bench.measure import memory
from bench.stage import checkpoint
from bench.testing import jobs
from methods.compression.export._shared.sparse_linear import SparseLinear
from methods.compression.export.sparse_storage import SparseStorage
from tests import subjects


def layer(zeros):
    torch.manual_seed(0)
    dense = torch.nn.Linear(40, 24)
    with torch.no_grad():
        dense.weight[torch.rand(24, 40) < zeros] = 0
    return dense


def test_by_hand():
    dense = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[0.0, 5.0, 0.0], [7.0, 0.0, 8.0]]))
    sparse = SparseLinear(dense)
    assert sparse.rows.tolist() == [0, 1, 3]
    assert sparse.columns.tolist() == [1, 0, 2]
    assert sparse.values.tolist() == [5, 7, 8]
    assert memory.storage_bytes(sparse) == 8 * 3 + 4 * 3


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.95, 1.0])
def test_it_computes_what_the_dense_layer_does(zeros):
    dense = layer(zeros)
    sparse = SparseLinear(dense)
    inputs = torch.randn(2, 5, 40)
    for each in (sparse, copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.allclose(each(inputs), dense(inputs), atol=1e-6)
    assert torch.equal(sparse.unpacked(), dense.weight)
    counts = memory.parameter_counts(sparse)
    assert counts["total"] == 40 * 24 + 24
    assert counts["nonzero"] == int(torch.count_nonzero(dense.weight)) + 24


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_the_file_has_six_bytes_a_weight_and_gives_the_weights_back(model, request, tmp_path):
    status, reason, records = jobs.run("magnitude(0.9) >> sparse_storage", request.getfixturevalue(model), tmp_path)
    assert status == "ok", reason
    assert records[1]["size"]["bytes"] < records[0]["size"]["bytes"]
    assert records[1]["parameters"] == records[0]["parameters"]
    dense, _ = checkpoint.load(tmp_path / "checkpoints" / "node0.pt")
    sparse, _ = checkpoint.load(tmp_path / "checkpoints" / "node1.pt")
    (tmp_path / "out").mkdir()
    SparseStorage().save(sparse, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    found = 0
    for name, module in sparse.named_modules():
        if isinstance(module, SparseLinear):
            columns, values = stored[f"{name}.columns"], stored[f"{name}.values"]
            assert (columns.element_size(), values.element_size()) == (2, 4)
            counts = stored[f"{name}.rows"].diff().long()
            rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
            weight = torch.zeros(module.out_features, module.in_features)
            weight[rows, columns.long()] = values
            assert torch.equal(weight, dense.get_submodule(name).weight)
            found += 1
    assert found


def test_layers_with_fewer_zeros_stay_dense(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("magnitude(0.5) >> sparse_storage(0.5)", tiny_bert, tmp_path)
    assert status == "ok", reason
    model, _ = checkpoint.load(tmp_path / "checkpoints" / "node1.pt")
    dense = [module for module in model.bert.encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert all(float((module.weight == 0).float().mean()) < 0.5 for module in dense)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("full >> sparse_storage", "prune first"),
        ("full >> magnitude(0.3) >> sparse_storage", "below the threshold of 0.5"),
        ("full >> magnitude(0.9) >> sparse_storage >> full", "inference only"),
    ],
)
def test_refusals(recipe, said, monkeypatch):
    (cell,) = subjects.make_plan(monkeypatch, {"it": recipe}).cells
    assert any(said in reason for reason in cell.refused) or "quantized" in cell.refused[0], cell.refused
