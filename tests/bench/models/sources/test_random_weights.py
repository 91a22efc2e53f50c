"""Published sizes, checked against the published numbers of parameters."""

import json

import pytest
import torch

from bench.models import architecture, registry
from bench.models.base import ModelError
from bench.models.registry import models
from bench.models.sources import random_weights
from bench.models.sources.random_weights import RandomWeights
from bench.testing import jobs

PARAMETERS = {
    # As safetensors' headers on the hub count them, or the papers; bert's are the encoder with its pooler.
    "random:bert-base": 109_482_240,
    "random:bert-large": 335_141_888,
    "random:llama-3.1-8b": 8_030_261_248,
    "random:llama-3.2-1b": 1_235_814_400,
    "random:qwen2.5-0.5b": 494_032_768,
    "random:t5-small": 60_506_624,
}


class Small(RandomWeights):
    """Small enough for a test."""

    name = "random:small"
    architecture = "llama"
    size = {  # noqa: RUF012
        "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64,
    }  # fmt: skip


def test_every_one_is_tested():
    assert set(PARAMETERS) == {name for name in models() if name.startswith("random:")}
    assert not any(models()[name].pretrained for name in PARAMETERS)
    assert len({models()[name]().fingerprint() for name in PARAMETERS}) == len(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_the_published_number_of_parameters(name):
    import transformers

    model = models()[name]()
    config = transformers.AutoConfig.for_model(model.model_type(), **model.config())
    with torch.device("meta"):
        auto_class = {"bert": transformers.AutoModel, "t5": transformers.AutoModelForSeq2SeqLM}
        made = auto_class.get(model.model_type(), transformers.AutoModelForCausalLM).from_config(config)
    assert sum(parameter.numel() for parameter in made.parameters()) == PARAMETERS[name]


def test_weights_are_the_same_each_time_and_draw_nothing_from_the_process():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, _ = Small().load("AutoModelForCausalLM", {})
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    other, _ = Small().load("AutoModelForCausalLM", {})
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert float(one.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_options_are_heeded():
    model, tokenizer = Small().load("AutoModelForSequenceClassification", {"num_labels": 7, "dtype": torch.bfloat16})
    assert model.num_labels == 7
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert {parameter.dtype for parameter in Small().load("AutoModelForCausalLM", {})[0].parameters()} == {
        torch.float32
    }
    with pytest.raises(ModelError, match="not quantized on the way"):
        Small().load("AutoModelForCausalLM", {"quantization_config": object()})


def test_the_tokenizer_takes_bytes_that_every_vocabulary_has():
    tokenizer = random_weights._tokenizer()
    text = "größe 🙂\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) + 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    smallest = min(models()[name].size["vocab_size"] for name in PARAMETERS)
    assert max(ids) < len(tokenizer) == 261 < smallest


def built(model):
    """The model on "meta", which its configuration alone decides."""
    import transformers

    config = transformers.AutoConfig.for_model(model.model_type(), **model.config())
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_smaller_one_has_the_same_shape(name, tmp_path):
    whole = models()[name]()
    small = registry.open_model(f"{name}(layers=2, hidden=128)", tmp_path)
    assert small.name == f"{name}(layers=2, hidden=128)"
    assert small.fingerprint() != whole.fingerprint()
    assert not small.pretrained
    assert whole.size is type(whole).size
    model, large = built(small), built(whole)
    stacks = [len(stack) for stack in architecture.stacks(model)]
    assert stacks == [2] * len(architecture.stacks(large))
    assert architecture.config(model).hidden_size == 128
    down, large_down = (architecture.feed_forward_outputs(each)[0] for each in (model, large))
    assert down.in_features / down.out_features == pytest.approx(
        large_down.in_features / large_down.out_features, abs=0.04
    )
    try:
        (ours, *_), (theirs, *_) = architecture.attention(model), architecture.attention(large)
    except ValueError:  # T5's, which has two a block of the decoder
        assert model.config.d_kv == large.config.d_kv
        assert model.config.num_heads * large.config.d_model == large.config.num_heads * model.config.d_model
        return
    assert ours.head_dim == theirs.head_dim
    assert ours.heads * theirs.query.in_features == theirs.heads * ours.query.in_features
    assert ours.heads % ours.key_value_heads == 0


def test_half_of_the_width_by_hand(tmp_path):
    config = registry.open_model("random:llama-3.2-1b(hidden=512)", tmp_path).config()
    # A quarter of 2048: of 32 heads 8, of 8 that answer 2, and of 8192 features 2048.
    assert [config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")] == [
        8,
        2,
        64,
        2048,
    ]
    assert config["num_hidden_layers"] == 16


def config_file(folder, **table):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(table))
    return "random:model/config.json"


GEMMA = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96, "vocab_size": 300,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def test_an_architecture_of_a_file(tmp_path):
    spec = config_file(tmp_path / "model", **GEMMA)
    model = registry.open_model(spec, tmp_path)
    assert model.problems() == []
    assert (model.name, model.model_type(), model.pretrained) == (spec, "gemma2", False)
    loaded, _ = model.load("AutoModelForCausalLM", {})
    assert len(loaded.model.layers) == 3
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    small, _ = registry.open_model(f"{spec}(hidden=32, layers=1)", tmp_path).load("AutoModelForCausalLM", {})
    assert small.config.layer_types == ["sliding_attention"]
    assert (small.config.num_attention_heads, small.config.num_key_value_heads, small.config.head_dim) == (2, 1, 32)
    status, reason, records = jobs.run("full", f"{spec}(layers=2)", tmp_path, task=jobs.prose(tmp_path))
    assert status == "ok", reason
    assert "quality" not in records[-1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("random:bert-bas", "neither one of random:bert-base, "),
        ("random:nowhere/config.json", "nor a config.json ("),
        ("random:bert-base(layers=2", "the sizes stand in brackets by their names"),
        ("random:bert-base(2)", "the sizes stand in brackets by their names"),
        ("random:bert-base(layers=2)(hidden=64)", "the sizes stand in brackets by their names"),
        ("random:bert-base(layer=2)", "unknown argument `layer`; did you mean `layers`?"),
        ("random:bert-base(layers='2')", "layers: it is a whole number, found '2'"),
        ("random:bert-base(layers=True)", "layers: it is a whole number, found True"),
        ("random:bert-base(layers=13)", "layers: random:bert-base has 12, and a smaller one at least 1, found 13"),
        ("random:bert-base(layers=0)", "at least 1, found 0"),
        ("random:bert-base(hidden=100)", "heads stay as wide as they are, so it is a multiple of 64, found 100"),
        (
            "random:model/config.json(layers=2)",
            "the configuration of random:model/config.json does not say how large it is",
        ),
    ],
)
def test_wrong_names(spec, said, tmp_path):
    config_file(tmp_path / "model", model_type="bert")
    with pytest.raises(ModelError) as error:
        registry.open_model(spec, tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"vocab_size": 300}, "it has no `model_type`"),
        ({"model_type": "bert", "vocab_size": 200}, "`vocab_size` is 200"),
    ],
)
def test_a_file_that_does_not_do(table, said, tmp_path):
    (problem,) = registry.open_model(config_file(tmp_path / "model", **table), tmp_path).problems()
    assert said in problem
    assert str(tmp_path / "model" / "config.json") in problem


@pytest.mark.parametrize("kind", ["classification", "causal_lm"])
def test_its_quality_is_not_measured_and_the_rest_is(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "models", lambda: {"random:small": Small})
    task = jobs.table(tmp_path) if kind == "classification" else jobs.prose(tmp_path)
    for text in ("full", "lora(r=2) >> merge", 'pretrain("clm")'):
        status, reason, records = jobs.run(text, "random:small", tmp_path, task=task)
        assert status == "ok", reason
        assert "quality" not in records[-1]
        assert records[0]["training"]["peak_bytes"] is not None
        assert records[-1]["parameters"]["total"] > 0
