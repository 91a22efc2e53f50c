import dataclasses
import os
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from bench.distributed.group import Group, _interface
from bench.models.structure import Structure
from bench.recipe.recipe import parse
from bench.tasks.base import Batch
from methods.training.parallel._shared.divided_training import alive
from tests.subjects import HERE, NoModel, NoTask, make_plan


def refusals(monkeypatch, recipe, machine=HERE, **keys):
    (cell,) = make_plan(monkeypatch, {"x": recipe}, machine, **keys).cells
    return cell.refused


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("full + data_parallel(3)", "a batch of 16 cannot be divided into 3 equal slices"),
        ("full + data_parallel(4) + accumulate(8)", "cannot be split into 8 for each of 4 processes"),
        (
            "full + data_parallel(2) + early_stopping(patience=1, every=2)",
            "early_stopping: it is not known to be right",
        ),
        ("adalora(init_r=4, target_r=2) + fully_sharded(2)", "adalora: it is not known to be right"),
        ('full + fully_sharded(2) + optimizer("sgd")', "optimizer: it is not known to be right"),
        ('full + fully_sharded(2) + mixed_precision("fp16")', "mixed_precision: in fp16"),
        ('lora(variant="dora") + fully_sharded(2)', "lora: dora works on whole weights"),
        ("nf4 >> lora + fully_sharded(2)", "fully_sharded: packed weights"),
        ("full + fully_sharded(2, offload=True)", "fully_sharded: offload"),
        ('full + compressed_gradients("fp16")', "compressed_gradients: only replicas exchange gradients"),
        ('full + fully_sharded(2) + compressed_gradients("fp16")', "compressed_gradients: only replicas"),
        (
            'full + data_parallel(2) + compressed_gradients("bf16")',
            "compressed_gradients: torch sends bf16 through NCCL",
        ),
        ('full + data_parallel(2) + compressed_gradients("fp16", rank=2)', "compressed_gradients: rank is"),
        ('full(share=0.02) + data_parallel(2) + compressed_gradients("powersgd")', "PowerSGD begins after 2 steps"),
        (
            'full + data_parallel(2) + compressed_gradients("powersgd") + mixed_precision("fp16")',
            "compressed_gradients: a gradient that overflows",
        ),
        ("sparsegpt(0.5) >> full + data_parallel(2)", "sparsegpt: it is not known to be right"),
        ("full + data_parallel(3) + tensor_parallel(2)", "a batch of 16 cannot be divided into 3 equal slices"),
        (
            'full + data_parallel(2) + fully_sharded(2) + compressed_gradients("fp16")',
            "compressed_gradients: it is not known to be right in a training that data_parallel + fully_sharded divides",
        ),
        (
            "full + data_parallel(2) + fully_sharded(4) + accumulate(4)",
            "cannot be split into 4 for each of 8 processes",
        ),
        ("full + data_parallel(2) + fully_sharded(3)", "a batch of 16 cannot be divided into 6 equal slices"),
        ('lora(variant="dora") + tensor_parallel(2)', "lora: dora measures the length of whole weights"),
        ("adalora(init_r=4, target_r=2) + tensor_parallel(2)", "adalora: it is not known to be right"),
        ("nf4 >> head + tensor_parallel(2)", "tensor_parallel: packed weights cannot be divided"),
        ("low_rank(2) >> full + tensor_parallel(2)", "tensor_parallel: layers that are products of two"),
        ("magnitude(0.5) >> full + tensor_parallel(2)", "magnitude: it is not known to be right"),
        ('full + tensor_parallel(2) + mixed_precision("fp16")', "mixed_precision: in fp16"),
        ('full + optimizer("muon") + tensor_parallel(2)', "optimizer: muon works on whole weights"),
        ('full + optimizer("lion_8bit") + tensor_parallel(2)', "optimizer: lion_8bit works on whole weights"),
        ("full + pipeline_parallel(4, 2)", "1f1b takes at least as many microbatches as processes, 4"),
        ('full + pipeline_parallel(4, 6, "interleaved")', "interleaved takes a multiple of 4 microbatches"),
        ("full + pipeline_parallel(2, 6)", "a batch of 16 cannot be divided into 6 equal micro-batches"),
        (
            "full + data_parallel(2) + accumulate(4) + pipeline_parallel(2, 4)",
            "a batch of 16 cannot be divided into 32 equal micro-batches; make budget.batch_size a multiple of 32",
        ),
        ("nf4 >> lora + pipeline_parallel(2, 2)", "pipeline_parallel: packed weights"),
        ("head + pipeline_parallel(2, 2)", "head: it is not known to be right"),
        ("full + compile + pipeline_parallel(2, 2)", "compile: it is not known to be right"),
        ("magnitude(0.5) >> full + pipeline_parallel(2, 2)", "magnitude: it is not known to be right"),
        ('full + pipeline_parallel(2, 2) + mixed_precision("fp16")', "mixed_precision: in fp16"),
        ("full + fully_sharded(2) + pipeline_parallel(2, 2)", "cannot be divided in these ways at once"),
        ("full + tensor_parallel(2) + pipeline_parallel(2, 2)", "cannot be divided in these ways at once"),
        (
            'full + data_parallel(2) + pipeline_parallel(2, 2) + compressed_gradients("fp16")',
            "compressed_gradients: it is not known to be right",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(monkeypatch, recipe, says):
    found = refusals(monkeypatch, recipe)
    assert any(says in reason for reason in found), found


@pytest.mark.parametrize(
    ("recipe", "items", "says"),
    [
        (
            "full + data_parallel(2)",
            1,
            "data_parallel: 2 processes cannot have items of their own where training has 1;",
        ),
        (
            "full + fully_sharded(4)",
            3,
            "fully_sharded: 4 processes cannot have items of their own where training has 3;",
        ),
        (
            "full + data_parallel(2) + fully_sharded(4)",
            7,
            "data_parallel + fully_sharded: 8 processes cannot have items of their own where training has 7; add items or",
        ),
        ("full + data_parallel(2)", 2, ""),
        ("full + data_parallel(2) + fully_sharded(4)", 8, ""),
        ("full + tensor_parallel(2)", 1, ""),
        ("full + pipeline_parallel(2, 2)", 1, ""),
        ("full + accumulate(4)", 1, ""),
        ("full + data_parallel(8)", None, ""),
    ],
)
def test_each_slice_of_a_batch_has_items_of_its_own(monkeypatch, recipe, items, says):
    monkeypatch.setattr(NoTask, "training_items", lambda self: items)
    found = refusals(monkeypatch, recipe)
    assert [reason for reason in found if says in reason] if says else found == ()


@pytest.mark.parametrize(
    "recipe",
    [
        "full + data_parallel(2) + accumulate(8)",
        "lora + fully_sharded(4) + mixed_precision",
        "nf4 >> lora + data_parallel(2)",
        "magnitude(0.5) >> full + data_parallel(2)",
        "full >> prune_ffn(0.5) >> full + fully_sharded(2)",
        'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)',
        "full + tensor_parallel(3)",
        "full + fully_sharded(2) + tensor_parallel(2)",
        "lora + data_parallel(2) + fully_sharded(2) + tensor_parallel(2)",
        "full + tensor_parallel(1)",
        "lora + data_parallel(2) + pipeline_parallel(4, 4) + accumulate(2) + mixed_precision + gradient_checkpointing",
        'full + pipeline_parallel(2, 1, "gpipe") + optimizer("muon")',
        'full + pipeline_parallel(4, 8, "interleaved")',
        "full + data_parallel(2) + fully_sharded(4) + accumulate(2)",
        'lora(variant="pissa") + data_parallel(2) + tensor_parallel(2)',
        "adapter + tensor_parallel(2)",
        "ia3 + fully_sharded(2)",
        'top_layers(1) + data_parallel(2) + tensor_parallel(2) + accumulate(8) + optimizer("lion") + gradient_checkpointing',
    ],
)
def test_what_can_be_divided_is_not(monkeypatch, recipe):
    assert refusals(monkeypatch, recipe) == ()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"num_attention_heads": 6, "intermediate_size": 64},
            "6 attention heads cannot be divided among 4 processes; take an n that divides 2",
        ),
        (
            {"num_attention_heads": 8, "num_key_value_heads": 1},
            "1 heads of keys and values cannot be divided among 4 processes; use data_parallel",
        ),
        ({"num_attention_heads": 4, "intermediate_size": 70}, "70 features inside the feed-forward layers"),
    ],
)
def test_layers_are_divided_evenly(monkeypatch, config, says):
    monkeypatch.setattr(NoModel, "config", lambda self: config)
    assert says in refusals(monkeypatch, "full + tensor_parallel(4)")[0]
    # How many heads are left is known when the model is there.
    assert not any(says in reason for reason in refusals(monkeypatch, "prune_heads(0.5) >> full + tensor_parallel(4)"))


def test_there_is_a_block_for_each_process(monkeypatch):
    monkeypatch.setattr(NoModel, "config", lambda self: {"num_hidden_layers": 6})
    assert refusals(monkeypatch, "full + pipeline_parallel(4, 4)") == ()
    (reason,) = refusals(monkeypatch, "full + pipeline_parallel(8, 8)")
    assert "6 blocks cannot be divided among 8 processes; lower n" in reason
    (reason,) = refusals(monkeypatch, 'full + pipeline_parallel(4, 4, "interleaved")')
    assert "6 blocks cannot be divided among 4 processes, two pieces each" in reason
    (reason,) = refusals(monkeypatch, "drop_layers(3) >> full + pipeline_parallel(4, 4)")
    assert "3 blocks cannot" in reason


def test_models_whose_parts_are_not_found_are_not_divided(monkeypatch):
    untold = {"parts_of_blocks": "Block has none that do", "row": "the second block takes two"}
    monkeypatch.setattr(NoModel, "examine", lambda *loaded: Structure(untold=untold))
    (reason,) = refusals(monkeypatch, "full + tensor_parallel(2)")
    assert reason.startswith("tensor_parallel: it needs to find attention and feed-forward parts")
    (reason,) = refusals(monkeypatch, "full + pipeline_parallel(2, 2)")
    assert reason.startswith("pipeline_parallel: it needs to find embeddings, blocks and a head")


def test_a_gpu_for_each_process(monkeypatch):
    machine = dataclasses.replace(HERE, device="cuda", gpus=2)
    assert refusals(monkeypatch, "full + data_parallel(2)", machine) == ()
    assert refusals(monkeypatch, "full + tensor_parallel(2)", machine) == ()
    (reason,) = refusals(monkeypatch, "full + data_parallel(2) + tensor_parallel(2)", machine)
    assert "data_parallel + tensor_parallel: it takes 4 GPUs, and this machine shows 2" in reason
    (reason,) = refusals(monkeypatch, "full + data_parallel(4)", machine)
    assert "takes 4 GPUs, and this machine shows 2" in reason
    # Where others hold the stage, it is theirs to say.
    assert refusals(monkeypatch, "full + data_parallel(4)", machine, shortage=lambda stage, machine: "") == ()
    assert refusals(monkeypatch, "full", machine, shortage=lambda stage, machine: "rest") == ("full: rest",)
    assert refusals(monkeypatch, "full + data_parallel(4)") == ()  # more than cores is allowed


def test_a_node_knows_its_processes(monkeypatch):
    plan = make_plan(monkeypatch, {"x": "full + data_parallel(4) >> full"})
    assert [node.processes for node in plan.nodes.values()] == [4, 1]
    assert parse("full").stages[0].layout == {}


def test_a_divided_node_knows_what_it_is_in_one_process(monkeypatch):
    recipes = {
        "alone": "full + accumulate(2) >> prune_ffn(0.5) >> full",
        "divided": "full + data_parallel(2) + tensor_parallel(2) + accumulate(2) >> prune_ffn(0.5) >> full",
        "sent": 'full + accumulate(2) + compressed_gradients("fp16") + data_parallel(2)',
        "no counterpart": "full + data_parallel(2)",
    }
    plan = make_plan(monkeypatch, recipes)
    paths = {cell.name: cell.path for cell in plan.cells}
    assert [node.single_process for node in paths["alone"]] == [None, None, None]
    assert [node.single_process for node in paths["divided"]] == [paths["alone"][0].id, None, None]
    assert [node.single_process for node in paths["sent"]] == [paths["alone"][0].id]
    assert paths["no counterpart"][0].single_process not in plan.nodes


def batch(*terms):
    items = len(terms)
    return Batch(
        {"input_ids": torch.arange(items)[:, None]}, torch.zeros(items), (1,) * items, terms, tuple(range(items))
    )


def test_the_mean_of_weighted_slices_is_the_batchs(monkeypatch):
    whole = batch(3, 1, 4, 1, 5, 9, 2, 6)
    values = torch.tensor([2.0, 7, 1, 8, 2, 8, 1, 8])
    sums = values * torch.tensor(whole.terms)
    found = []
    for rank in range(4):
        group = Group(rank, layout={"replicas": 4})
        monkeypatch.setattr(group, "local_rank", lambda axis, rank=rank: rank)
        part, weight = group.part(whole, "replicas")
        assert part.items == (2 * rank, 2 * rank + 1)
        found.append(weight * float(sums[list(part.items)].sum()) / part.weight)
    assert sum(found) / 4 == pytest.approx(float(sums.sum()) / whole.weight, rel=1e-6)


def test_slices_of_slices_are_weighted_too(monkeypatch):
    whole = batch(3, 1, 4, 1, 5, 9, 2, 6)
    values = torch.tensor([2.0, 7, 1, 8, 2, 8, 1, 8])
    sums = values * torch.tensor(whole.terms)
    found, items, numbers = [], [], []
    for rank in range(4):
        group = Group(rank, layout={"replicas": 2, "shards": 2})
        places = {"replicas": rank // 2, "shards": rank % 2}
        monkeypatch.setattr(group, "local_rank", places.__getitem__)
        half, outer = group.part(whole, "shards")
        part, inner = group.part(half, "replicas")
        found.append(outer * inner * float(sums[list(part.items)].sum()) / part.weight)
        items += part.items
        numbers.append(group.batch_part)
    assert sorted(items) == list(range(8))
    assert sorted(numbers) == list(range(4))
    assert sum(found) / 4 == pytest.approx(float(sums.sum()) / whole.weight, rel=1e-6)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([(0, os.getpid()), (2, os.getpid())], "2 are alive"),  # two machines may give the same number
        ([(0, os.getpid()), (0, os.getpid())], "1 are alive"),
        ([(0, os.getpid()), (0, 2**22 + 1)], "1 are alive"),  # more than Linux gives
    ],
)
def test_who_is_alive_on_several_machines(said, found):
    group = SimpleNamespace(first=0, all_gather=lambda value, split: said)
    work = SimpleNamespace(group=group, stage=parse("full + data_parallel(2)").stages[0])
    claim = alive(work, "replicas")
    assert (claim.holds, claim.seen) == (found == "2 are alive", found)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere gloo finds its own")
def test_the_interface_that_leads_to_a_machine():
    assert _interface("127.0.0.1") == "lo"
    assert _interface("no.such.host.invalid") is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no way out of this machine")
        own = probe.getsockname()[0]
    assert _interface("192.0.2.1") in {name for _, name in socket.if_nameindex()} - {"lo"}
    assert _interface(own) == _interface("192.0.2.1")


def test_a_process_alone_is_a_group():
    group = Group()
    assert (group.size, group.batch_part) == (1, 0)
    assert group.all_gather("x") == ["x"]
    group.close()
