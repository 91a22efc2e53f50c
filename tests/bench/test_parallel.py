import dataclasses

import pytest
import torch

from bench.parallel import Group
from bench.recipe import parse
from bench.tasks.base import Batch
from tests.subjects import HERE, make_plan


def refusals(monkeypatch, recipe, machine=HERE, **keys):
    (cell,) = make_plan(monkeypatch, {"x": recipe}, machine, **keys).cells
    return cell.refused


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("full + data_parallel(2) + fully_sharded(2)", "cannot be divided in these ways at once"),
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
    ],
)
def test_what_cannot_be_divided_is_refused(monkeypatch, recipe, says):
    found = refusals(monkeypatch, recipe)
    assert any(says in reason for reason in found), found


@pytest.mark.parametrize(
    "recipe",
    [
        "full + data_parallel(2) + accumulate(8)",
        "lora + fully_sharded(4) + mixed_precision",
        "nf4 >> lora + data_parallel(2)",
        "magnitude(0.5) >> full + data_parallel(2)",
        "full >> prune_ffn(0.5) >> full + fully_sharded(2)",
        'full + data_parallel(2) + compressed_gradients("powersgd", rank=2)',
    ],
)
def test_what_can_be_divided_is_not(monkeypatch, recipe):
    assert refusals(monkeypatch, recipe) == ()


def test_a_gpu_for_each_process(monkeypatch):
    machine = dataclasses.replace(HERE, device="cuda", gpus=2)
    assert refusals(monkeypatch, "full + data_parallel(2)", machine) == ()
    (reason,) = refusals(monkeypatch, "full + data_parallel(4)", machine)
    assert "takes 4 GPUs, and this machine shows 2" in reason
    assert refusals(monkeypatch, "full + data_parallel(4)") == ()  # more than cores is allowed


def test_a_node_knows_its_processes(monkeypatch):
    plan = make_plan(monkeypatch, {"x": "full + data_parallel(4) >> full"})
    assert [node.processes for node in plan.nodes.values()] == [4, 1]
    assert parse("full").stages[0].layout == {}


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
        monkeypatch.setattr(group, "place", lambda split, rank=rank: rank)
        part, weight = group.part(whole)
        assert part.items == (2 * rank, 2 * rank + 1)
        found.append(weight * float(sums[list(part.items)].sum()) / part.weight)
    assert sum(found) / 4 == pytest.approx(float(sums.sum()) / whole.weight, rel=1e-6)


def test_a_process_alone_is_a_group():
    group = Group()
    whole = batch(1, 2)
    part, weight = group.part(whole)
    assert (part.items, weight, group.size) == (whole.items, 1.0, 1)
    assert group.everyone("x") == ["x"]
    group.close()
