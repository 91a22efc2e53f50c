"""Published sizes, checked against the published numbers of parameters."""

import pytest
import torch

from bench.models import registry
from bench.models.base import ModelError
from bench.models.registry import models
from bench.models.sources import random_weights
from bench.models.sources.random_weights import RandomWeights
from tests import jobs

PARAMETERS = {
    # As safetensors' headers on the hub count them, or the papers; bert's are the encoder with its pooler.
    "random:bert-base": 109_482_240,
    "random:bert-large": 335_141_888,
    "random:llama-3.1-8b": 8_030_261_248,
    "random:llama-3.2-1b": 1_235_814_400,
    "random:qwen2.5-0.5b": 494_032_768,
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
        auto_class = transformers.AutoModel if model.model_type() == "bert" else transformers.AutoModelForCausalLM
        made = auto_class.from_config(config)
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
