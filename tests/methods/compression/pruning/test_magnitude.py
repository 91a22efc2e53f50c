"""Magnitude pruning against ``torch.nn.utils.prune``, and masks that later trainings keep."""

import copy

import pytest
import torch
from torch.nn.utils import prune

from bench.models.architecture import block_linears
from bench.testing import jobs
from methods import _masks
from tests.transforms import applied, refusals


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_the_same_weights_go_as_in_torch(fixture, scope, request, tmp_path):
    original, done = applied(f'magnitude(0.37, "{scope}")', request.getfixturevalue(fixture), tmp_path)
    reference = copy.deepcopy(original)
    weights = [(layer, "weight") for layer in block_linears(reference).values()]
    if scope == "global":
        prune.global_unstructured(weights, prune.L1Unstructured, amount=0.37)
    for layer, name in weights:
        if scope == "layer":
            prune.l1_unstructured(layer, name, 0.37)
        prune.remove(layer, name)
    theirs = reference.state_dict()
    assert all(torch.equal(ours, theirs[name]) for name, ours in done.model.state_dict().items())


def zeroed(weights, count):
    return torch.cat([zero.flatten() for zero in _masks.smallest(weights, count)])


@pytest.mark.parametrize("piece", [7, 2**24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_threshold_is_found_in_passes_as_by_sorting_all(piece, dtype, monkeypatch):
    monkeypatch.setattr(_masks, "_PIECE", piece)  # as if there were more numbers than go into one
    torch.manual_seed(0)
    weights = [torch.randn(5, 11), torch.randn(3, 4) * 1e-3, torch.zeros(2, 3), torch.randn(64, 64) * 1e4]
    weights = [weight.to(dtype) for weight in weights]
    sizes = torch.cat([weight.flatten() for weight in weights]).abs()
    ordered = sizes.sort(stable=True)
    for count in (0, 1, 3, 6, 7, 50, 73, 2000, len(sizes) - 1, len(sizes)):
        wanted = torch.zeros(len(sizes), dtype=torch.bool)
        wanted[ordered.indices[:count]] = True
        assert torch.equal(zeroed(weights, count), wanted), count


def test_of_equal_numbers_the_first_go_and_exactly_as_many_as_asked(monkeypatch):
    monkeypatch.setattr(_masks, "_PIECE", 5)
    weights = [torch.tensor([0.5, -0.5, 0.25, 0.5, -0.5, 0.5, 0.5]), torch.full((2, 4), -0.5)]
    order = [2, 0, 1, *range(3, 15)]
    for count in range(16):
        assert zeroed(weights, count).nonzero().flatten().tolist() == sorted(order[:count])


def test_no_more_than_a_piece_is_looked_at_at_once(tiny_bert, tmp_path, monkeypatch):
    """Of all weights together there may be more than torch sorts."""
    monkeypatch.setattr(_masks, "_PIECE", 100)
    seen = []
    for name in ("topk", "sort", "kthvalue", "argsort"):
        monkeypatch.setattr(torch.Tensor, name, lambda *args, **options: pytest.fail("it sorts"))
    cumsum = torch.Tensor.cumsum
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: seen.append(self.numel()) or cumsum(self, dim))
    _, done = applied("magnitude(0.37)", tiny_bert, tmp_path)
    assert max(number for number in seen if number != 2**16) == 100
    weights = [layer.weight for layer in block_linears(done.model).values()]
    total = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == round(0.37 * total)


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize(
    "text", ["magnitude(0.5) >> lora(r=2)", "full >> drop_layers(1) >> magnitude(0.5) >> full(share=0.3)"]
)
def test_chains_keep_the_zeros(text, fixture, request, tmp_path):
    status, reason, records = jobs.run(text, request.getfixturevalue(fixture), tmp_path, budget={"steps": 3})
    assert status == "ok", reason
    assert [claim["text"] for claim in records[-1]["evidence"] if claim["method"] == "magnitude"] == [
        "the zeros were kept in training, and no weight was lost"
    ]


def test_more_can_be_pruned_later_by_the_same_method(tiny_bert, tmp_path):
    status, reason, _ = jobs.run("magnitude(0.3) >> full >> magnitude(0.6)", tiny_bert, tmp_path, budget={"steps": 2})
    assert status == "ok", reason


@pytest.mark.parametrize("first", ["wanda(0.3, samples=16)", "sparsegpt(0.3, samples=16)", "sparse_2_4"])
def test_over_all_layers_it_takes_up_the_zeros_of_others(first, tiny_bert, tmp_path):
    text = f"{first} >> magnitude(0.7) >> full"
    assert refusals(text, tiny_bert, tmp_path) == ()
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path, budget={"steps": 2})
    assert status == "ok", reason


def test_more_zeros_than_it_leaves_are_seen_in_the_weights(tiny_bert, tmp_path):
    # Each row of 32 rounds 0.49 to half.
    text = "wanda(0.49, samples=16) >> magnitude(0.495)"
    assert refusals(text, tiny_bert, tmp_path) == ()
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert (status, reason) == (
        "refused",
        "magnitude: 0.4961 of the weights are zero already, more than the amount of 0.495; raise it",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("magnitude(0.5) >> magnitude(0.4)", "sparse from `magnitude(amount=0.5)` already"),
        ("magnitude(0.5) >> magnitude(0.5)", "sparse from `magnitude(amount=0.5)` already"),
        ("wanda(0.5) >> magnitude(0.5)", "sparse from `wanda(amount=0.5)` already"),
        ("sparse_2_4 >> magnitude(0.4)", "sparse from `sparse_2_4` already"),
        ("wanda(0.3) >> magnitude(0.5, 'layer')", "its zeros need not fit the pattern of `magnitude("),
        ("magnitude(0.3) >> wanda(0.5)", "its zeros need not fit the pattern of `wanda(amount=0.5)`"),
        ("magnitude(0.3) >> sparsegpt(0.5)", "its zeros need not fit the pattern"),
        ("magnitude(0.3) >> sparse_2_4", "its zeros need not fit the pattern"),
        ("magnitude(0.3) >> magnitude(0.5, 'layer')", "sparse from `magnitude(amount=0.3)` already"),
        ("full + gradual(magnitude(0.5)) >> wanda(0.6)", "sparse from `magnitude(amount=0.5)` already"),
        ("lora(r=2) >> magnitude(0.5)", "fold it first"),
        ("torch_int8_dynamic >> magnitude(0.5)", "prune first"),
    ],
)
def test_what_it_cannot_follow_on_is_refused(text, why, tiny_bert, tmp_path):
    assert any(why in reason for reason in refusals(text, tiny_bert, tmp_path))
