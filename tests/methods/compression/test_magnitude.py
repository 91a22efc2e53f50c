"""Magnitude pruning against ``torch.nn.utils.prune``, and masks that later trainings keep."""

import copy

import pytest
import torch
from torch.nn.utils import prune

from bench.architecture import block_linears
from tests import jobs
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
        ("dynamic_int8 >> magnitude(0.5)", "prune first"),
    ],
)
def test_what_it_cannot_follow_on_is_refused(text, why, tiny_bert, tmp_path):
    assert any(why in reason for reason in refusals(text, tiny_bert, tmp_path))
