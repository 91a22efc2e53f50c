"""Two zeros in every four; and, with a stand-in for a GPU's kernels, the compressed layer's life."""

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUTLASS

from bench.models.architecture import block_linears
from methods.compression.pruning._shared.semi_structured import SemiStructuredLinear
from tests import jobs
from tests.transforms import applied, refusals, work


def groups(layer):
    return layer.weight.detach().view(-1, 4)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_each_group_has_two_zeros(fixture, criterion, request, tmp_path):
    original, done = applied(f'sparse_2_4("{criterion}", samples=16)', request.getfixturevalue(fixture), tmp_path)
    before = block_linears(original)
    moved = 0
    for name, layer in block_linears(done.model).items():
        assert ((groups(layer) == 0).sum(1) == 2).all()
        moved += int((groups(layer) != groups(before[name]) * (groups(layer) != 0)).sum())
    assert bool(moved) is (criterion == "sparsegpt")


def test_by_magnitude_the_larger_two_stay(tiny_bert, tmp_path):
    original, done = applied("sparse_2_4", tiny_bert, tmp_path)
    before = block_linears(original)
    for name, layer in block_linears(done.model).items():
        for group, kept in list(zip(groups(before[name]).tolist(), groups(layer).tolist(), strict=True))[:200]:
            largest = sorted(group, key=abs)[2:]
            assert kept == [value if value in largest else 0.0 for value in group]


def test_layers_that_are_no_multiple_of_four_wide_are_left_alone(tiny_bert, tmp_path):
    # 64 neurons less round(64 · 0.4) = 26 are 38.
    text = "prune_ffn(0.4) >> sparse_2_4"
    status, reason, records = jobs.run(text, tiny_bert, tmp_path)
    assert status == "ok", reason
    seen = {claim["text"]: claim["seen"] for claim in records[-1]["evidence"]}
    assert "2 layers are no multiple of four wide" in seen["each group of four weights has exactly two zeros"]


def test_a_later_training_keeps_the_pattern(tiny_llama, tmp_path):
    status, reason, _ = jobs.run("sparse_2_4 >> full", tiny_llama, tmp_path)
    assert status == "ok", reason


def test_compressed_needs_a_gpu_and_is_the_end(tiny_bert, tmp_path):
    (reason,) = refusals('sparse_2_4(storage="compressed")', tiny_bert, tmp_path)
    assert "NVIDIA GPU" in reason
    reasons = refusals('sparse_2_4(storage="compressed") >> full', tiny_bert, tmp_path)
    assert any(text.startswith("full: ") for text in reasons)


@pytest.fixture
def gpu(monkeypatch):
    """torch's own compressed format, of which the packing works anywhere; the product unpacks."""
    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_PROTOTYPE_WARNING_SHOWN", True)
    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_validate_device_dim_dtype_shape", lambda tensor: None)
    SparseSemiStructuredTensorCUTLASS._load_dispatch_table()

    def product(self, dense, *, bias=None, **options):
        found = self.to_dense() @ dense
        return found if bias is None else found + bias[:, None]

    monkeypatch.setattr(SparseSemiStructuredTensorCUTLASS, "_mm", product)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", SparseSemiStructuredTensorCUTLASS.from_dense)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(SemiStructuredLinear, "compressed_on", "cpu")


def two_of_four(rows, columns):
    layer = torch.nn.Linear(columns, rows).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.view(-1, 4)[:, :2] = 0
    return layer


def test_without_compression_the_evidence_fails(gpu, monkeypatch, tiny_bert, tmp_path):
    monkeypatch.setattr(SemiStructuredLinear, "compressed_on", "cuda")
    done = work('sparse_2_4(storage="compressed")', tiny_bert, tmp_path)
    before = done.snapshot()
    done.stage.main.apply(done)
    false = [claim.text for claim in done.stage.main.evidence(before, done) if not claim.holds]
    assert false == ["the layers whose shape the kernels take are stored compressed"]
