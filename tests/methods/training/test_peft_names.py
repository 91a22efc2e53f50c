"""What is said of PEFT without importing it, against PEFT itself."""

import subprocess
import sys

import pytest

from methods import _peft


@pytest.mark.parametrize("method", ["LORA", "ADALORA", "IA3"])
def test_the_model_types_of_which_peft_chooses_the_layers(method):
    from peft.utils import constants

    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{method}_TARGET_MODULES_MAPPING")
    assert _peft.CHOSEN[method] == table.keys()


def test_listing_and_planning_import_neither_torch_nor_peft():
    code = (
        "import sys; from bench import recipe, registry; registry.methods(); "
        "recipe.parse('lora(r=4) >> merge'); recipe.parse('prefix(3)'); recipe.parse('adapter'); "
        "sys.exit(bool({'torch', 'peft'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
