"""What is known of an architecture is seen in its modules and its passes."""

import ast
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tests import architectures

ROOT = Path(__file__).parents[3]


def test_no_file_lists_architectures():
    """No set, list, tuple, table or text of words holds two of transformers' model types."""
    lists = {}
    for file in [*ROOT.glob("bench/**/*.py"), *ROOT.glob("methods/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Set | ast.List | ast.Tuple | ast.Dict):
                found = node.keys if isinstance(node, ast.Dict) else node.elts
                words = {each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." not in node.value:
                words = set(node.value.split())  # "bert gpt2 llama".split()
            else:
                continue
            if len(words & CONFIG_MAPPING_NAMES.keys()) >= 2:
                lists[f"{file.relative_to(ROOT)}:{node.lineno}"] = words
    assert not lists


@pytest.mark.parametrize("name", ["bert", "electra", "llama", "mistral", "qwen2", "roberta"])
def test_what_is_known_of_plain_architectures(name):
    known = architectures.structure(name)
    assert known.untold == {}
    # However the cache of keys and values is set, a pass shows the same.
    assert architectures.structure(name, use_cache=False).untold == {}


@pytest.mark.parametrize(
    ("name", "part", "why"),
    [
        ("qwen3", "parts_of_blocks", "its attention has weights beside"),
        ("opt", "parts_of_blocks", "with half of the heads"),
        ("olmo2", "fewer_heads", "with half of the heads"),
        ("olmo2", "fewer_channels", "as wide as the hidden states"),
        ("mpnet", "fewer_channels", "its blocks are given more that is computed from weights"),
        ("bloom", "row", "between embeddings, blocks and head"),
        ("gpt2", "row", "with others in their places"),
        ("deberta-v2", "row", "encoder.rel_embeddings.weight is neither before, nor in, nor after its blocks"),
        ("phi3", "feed_forward", "no feed-forward part"),
        ("falcon", "attention", "a linear layer each for queries, keys, values and output"),
        ("mixtral", "feed_forward_outputs", "no linear layer outside of its attention"),
    ],
)
def test_what_is_not_known_says_what_was_not_found(name, part, why):
    assert why in architectures.structure(name).untold[part]


def test_passes_leave_the_model_as_it_was():
    import torch
    import transformers

    from bench.models import examine

    with torch.device("meta"):
        model = transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(**(architectures.DECODER | {"num_hidden_layers": 5}))
        )
    before = [(name, id(parameter), parameter.shape) for name, parameter in model.named_parameters()]
    modules = [(name, id(module), module.training) for name, module in model.named_modules()]
    assert examine.structure(model).stacks == (5,)
    assert [(name, id(parameter), parameter.shape) for name, parameter in model.named_parameters()] == before
    assert [(name, id(module), module.training) for name, module in model.named_modules()] == modules
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("name", "both"), [("bert", True), ("deberta-v2", True), ("llama", False), ("bart", False)])
def test_reading_in_both_directions(name, both):
    known = architectures.structure(name)
    assert known.both_ways is both
    assert known.one_way is (name == "llama")
    assert not architectures.structure("bert", is_decoder=True).both_ways


def test_dropout_is_seen_where_it_is():
    assert architectures.structure("bert").drops == ("body", "head")
    assert architectures.structure("llama").drops == ()
    assert architectures.structure("llama", attention_dropout=0.1).drops == ("body",)
    assert architectures.structure("gpt_neo").drops == ()
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert architectures.structure("bert", **without, classifier_dropout=0.1).drops == ("head",)
