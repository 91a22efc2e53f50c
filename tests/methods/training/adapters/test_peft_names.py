"""The layers that an adapter is put on where a recipe names none."""

import subprocess
import sys

import pytest

from bench.models.examine import targets
from bench.models.registry import open_model
from bench.tasks.registry import open_task
from bench.testing import jobs


@pytest.mark.parametrize("method", ["LORA", "ADALORA", "IA3"])
def test_they_are_those_that_peft_chooses(tiny_bert, tiny_llama, tmp_path, method):
    from peft.utils import constants

    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{method}_TARGET_MODULES_MAPPING")
    for folder in (tiny_bert, tiny_llama):
        model, _ = open_model(str(folder), folder).load(*open_task(jobs.table(tmp_path), tmp_path).model_options())
        assert list(targets(model, method)) == table[model.config.model_type]


def test_they_make_queries_and_values_where_peft_does_not_choose(tmp_path):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    with torch.device("meta"):
        model = DistilBertForSequenceClassification(DistilBertConfig(dim=8, n_layers=2, n_heads=2, hidden_dim=16))
    assert targets(model, "LORA") == ("q_lin", "v_lin")
    assert targets(model, "IA3") == ()


def test_listing_and_planning_import_neither_torch_nor_peft():
    code = (
        "import sys; from bench.recipe import recipe; from bench.recipe import registry; registry.methods(); "
        "recipe.parse('lora(r=4) >> merge'); recipe.parse('prefix(3)'); recipe.parse('adapter'); "
        "sys.exit(bool({'torch', 'peft'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
