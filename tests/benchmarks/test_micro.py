"""Micro-benchmarks of what runs often. ``nox -s overhead`` times them; a test run only calls each once."""

import pytest
import torch

from bench.recipe import recipe
from bench.record.store import Store
from bench.tasks.registry import open_task
from bench.testing import jobs
from tests.subjects import make_plan

LONG = "lora(r=16) + accumulate(4) + mixed_precision('bf16') >> merge >> prune_ffn(0.5) >> full(share=0.3) >> torch_int8_dynamic"


def test_parse_a_long_recipe(benchmark):
    assert len(benchmark(recipe.parse, LONG).stages) == 5


def test_plan_a_hundred_recipes(benchmark, monkeypatch):
    recipes = {f"r{number}": f"full >> magnitude({number / 101}) >> full(share=0.3)" for number in range(1, 101)}
    plan = benchmark(make_plan, monkeypatch, recipes, seeds=[0, 1, 2])
    assert len(plan.nodes) == 3 * 201


def test_append_a_record(benchmark, tmp_path):
    store = Store(tmp_path)
    training = {"step_seconds": [0.1] * 500, "tokens": [96] * 500, "samples": [8] * 500, "warmup": 5}
    record = {"kind": "node", "id": "a", "run": "r", "status": "ok", "training": training}
    benchmark(store.append, record)
    assert store.read().nodes


@pytest.mark.parametrize("batch_size", [16])
def test_make_a_batch(benchmark, tiny_bert, tmp_path, batch_size):
    from bench.models.registry import open_model

    task = open_task(jobs.table(tmp_path), tmp_path)
    _, tokenizer = open_model(str(tiny_bert), tmp_path).load("AutoModelForSequenceClassification", {"num_labels": 3})
    batches = task.batches(
        "train", tokenizer, batch_size=batch_size, max_length=32, generator=torch.Generator().manual_seed(0)
    )
    assert benchmark(next, batches).samples == batch_size
