"""Adapters that were saved alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.models.sources.adapter import Adapter
from bench.testing import jobs

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

CAUSAL = "AutoModelForCausalLM"
CLASSES: dict[str, Any] = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}


def lora(**named: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(target_modules=["q_proj", "v_proj"], **named)


def save(base: Path, folder: Path, config: Any, auto_class: str = CAUSAL, **change: object) -> Path:
    """Save an adapter whose weights are not zero, put on the model in `base`; `change` goes into its configuration."""
    import torch
    import transformers
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(getattr(transformers, auto_class).from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return folder


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 15)[None]).logits


@pytest.mark.parametrize("kind", ["lora", "ia3", "lokr", "embeddings"])
def test_it_answers_as_peft_does(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    import transformers
    from peft import IA3Config, LoKrConfig, PeftModel

    config = {
        "lora": lora,
        "embeddings": lambda: lora(modules_to_save=["embed_tokens"], task_type="CAUSAL_LM"),
        "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "lokr": lambda: LoKrConfig(target_modules=["q_proj"], r=4),
    }[kind]()
    folder = save(tiny_llama, tmp_path / "adapter", config)
    model = open_model(str(folder), tmp_path)
    assert isinstance(model, Adapter)
    assert model.problems() == []
    assert model.model_type() == "llama"
    loaded, tokenizer = model.load(CAUSAL, {})
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    without = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, folder))
    assert torch.allclose(logits(loaded), wanted, atol=1e-4)
    assert not torch.allclose(wanted, without, atol=1e-2)
    assert tokenizer.pad_token_id is not None
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert not [name for name, _ in loaded.named_modules() if "lora" in name or "base_layer" in name]
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_task_makes_the_head(tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    folder = save(tiny_llama, tmp_path / "adapter", lora(task_type="SEQ_CLS"), "AutoModelForSequenceClassification")
    model, _ = open_model(str(folder), tmp_path).load("AutoModelForSequenceClassification", CLASSES)
    base, _ = open_model(str(tiny_llama), tmp_path).load("AutoModelForSequenceClassification", CLASSES)
    assert model.newly_initialized == {"score.weight"}  # type: ignore[union-attr]
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, base.state_dict()[name])}
    assert changed - {"score.weight"} == {
        f"model.layers.{layer}.self_attn.{side}_proj.weight" for layer in range(2) for side in "qv"
    }


def test_a_base_beside_it_and_a_tokenizer_of_its_own(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(tiny_llama, tmp_path / "base")
    beside = save(tiny_llama, tmp_path / "runs" / "one", lora(), base_model_name_or_path="../../base")
    seen_from_the_suite = save(tiny_llama, tmp_path / "runs" / "two", lora(), base_model_name_or_path="base")
    for folder in (beside, seen_from_the_suite):
        model = open_model(str(folder), tmp_path)
        assert model.problems() == []
        assert model.notes() == [
            "an adapter, which is folded into the weights of base as that is loaded",
        ]
    before = model.fingerprint()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(seen_from_the_suite)
    own = open_model(str(seen_from_the_suite), tmp_path)
    assert own.fingerprint() != before
    assert own.load(CAUSAL, {})[1].chat_template == "{{ messages }}"


def test_the_fingerprint_is_of_both(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    base = shutil.copytree(tiny_llama, tmp_path / "base")
    folder = save(base, tmp_path / "adapter", lora())
    found = {open_model(str(folder), tmp_path).fingerprint()}
    for file in (folder / "adapter_config.json", folder / "adapter_model.safetensors", base / "config.json"):
        file.write_bytes(file.read_bytes() + b" ")
        found.add(open_model(str(folder), tmp_path).fingerprint())
    assert len(found) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model_name_or_path": None}, "it has no `base_model_name_or_path`"),
        ({"base_model_name_or_path": "."}, "is the adapter's own folder"),
        ({"base_model_name_or_path": "/nowhere"}, "`base_model_name_or_path`: `/nowhere` is neither"),
    ],
)
def test_a_base_that_is_not_there(change: dict[str, object], said: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = save(tiny_llama, tmp_path / "adapter", lora(), **change)
    with pytest.raises(ModelError) as error:
        open_model(str(folder), tmp_path)
    assert said in str(error.value)
    assert str(folder / "adapter_config.json") in str(error.value)


def test_what_cannot_be_folded(tiny_llama: Path, tmp_path: Path) -> None:
    folder = save(tiny_llama, tmp_path / "adapter", lora(), peft_type="PROMPT_TUNING")
    (problem,) = open_model(str(folder), tmp_path).problems()
    assert "an adapter of the kind PROMPT_TUNING cannot be folded into weights" in problem


def quantized(table: dict[str, Any]) -> None:
    table["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def test_a_base_that_is_quantized(tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    base = shutil.copytree(tiny_llama, tmp_path / "base")
    folder = save(base, tmp_path / "adapter", lora())
    config = json.loads((base / "config.json").read_text())
    quantized(config)
    (base / "config.json").write_text(json.dumps(config))
    (problem,) = open_model(str(folder), tmp_path).problems()
    assert "the weights of base are quantized" in problem


def test_the_adapter_of_another_model(tiny_bert: Path, tiny_llama: Path, tmp_path: Path) -> None:
    folder = save(tiny_llama, tmp_path / "adapter", lora(), base_model_name_or_path=str(tiny_bert))
    model = open_model(str(folder), tmp_path)
    (problem,) = model.examine("AutoModelForSequenceClassification", CLASSES).problems
    assert f"the adapter is put on layers that {tiny_bert.name} does not have (q_proj, v_proj)" in problem
    with pytest.raises(ModelError, match="PEFT cannot load it"):
        model.load("AutoModelForSequenceClassification", CLASSES)


def test_every_method_works_on_it(tiny_llama: Path, tmp_path: Path) -> None:
    folder = save(tiny_llama, tmp_path / "adapter", lora())
    for text in ("full", "lora(r=2) >> merge >> torch_int8_dynamic", "nf4 >> lora(r=2)"):
        status, reason, _ = jobs.run(text, folder, tmp_path, task=jobs.prose(tmp_path))
        assert status == "ok", reason
