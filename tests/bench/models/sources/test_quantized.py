"""Checkpoints whose weights came quantized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.plan import plan
from bench.suite.suite import of
from bench.testing import jobs
from tests import architectures
from tests.subjects import HERE

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

CAUSAL = "AutoModelForCausalLM"
WAYS: dict[str, dict[str, Any]] = {
    "four": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "eight": {"load_in_8bit": True},
}


@pytest.fixture(scope="module", params=WAYS)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama, saved with its weights in 4 or in 8 bits by transformers."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("quantized")
    plain = architectures.make("llama", folder, hidden_size=64, intermediate_size=128)
    config = transformers.BitsAndBytesConfig(**WAYS[request.param])
    model = transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder / request.param)
    transformers.AutoTokenizer.from_pretrained(plain).save_pretrained(folder / request.param)
    return folder / request.param


def test_it_is_loaded_as_transformers_does(quantized: Path) -> None:
    import bitsandbytes
    import torch
    import transformers

    model = open_model(str(quantized), quantized)
    assert model.problems() == []
    assert model.facts() == {"quantized"}
    assert model.notes() == ["its weights came quantized, by bitsandbytes, and every recipe begins with them"]
    loaded, _ = model.load(CAUSAL, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32)
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        # Another kernel answers there, to whose rounding they are the same.
        assert torch.allclose(loaded(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-2)
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    assert sum(isinstance(module, kinds) for module in loaded.modules()) == 14


def test_a_new_head_is_not_quantized(quantized: Path) -> None:
    import torch

    options = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    loaded, _ = open_model(str(quantized), quantized).load("AutoModelForSequenceClassification", options)
    assert type(loaded.score) is torch.nn.Linear
    assert loaded.newly_initialized == {"score.weight"}  # type: ignore[union-attr]


def refusals(folder: Path, data: Path, **recipes: str) -> dict[str, str]:
    suite = of({"model": str(folder), "task": jobs.prose(data).model_dump(exclude_unset=True), "recipes": recipes})
    return {cell.name: "; ".join(cell.refused) for cell in plan.make(suite, data, HERE).cells}


def test_planning_knows(quantized: Path, tmp_path: Path) -> None:
    found = refusals(
        quantized, tmp_path, lora="lora(r=2)", full="full", again="nf4", merge="lora(r=2) >> merge", half="half",
        first="lora(r=2) >> torch_int8_dynamic", pissa='lora(variant="pissa")',
    )  # fmt: skip
    assert found.pop("lora") == ""
    assert all("quantized" in reason or "fewer bits" in reason for reason in found.values()), found


def test_an_adapter_trains_beside_it(quantized: Path, tmp_path: Path) -> None:
    for text in ("lora(r=2)", "ia3", 'lora(r=2, variant="dora")'):
        status, reason, records = jobs.run(text, quantized, tmp_path, task=jobs.prose(tmp_path), serve=True)
        assert status == "ok", reason
        assert records[0]["quality"]["metrics"]


def test_it_is_saved_as_it_came(quantized: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, _ = open_model(str(quantized), quantized).load(CAUSAL, {})
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    came, saved = (load_file(folder / "model.safetensors") for folder in (quantized, tmp_path))
    assert came.keys() == saved.keys()
    assert all((came[name] == saved[name]).all() for name in came)


def test_a_classifier_trains_beside_it(quantized: Path, tmp_path: Path) -> None:
    for text in ("head", "lora(r=2)"):
        status, reason, _ = jobs.run(text, quantized, tmp_path, serve=True)
        assert status == "ok", reason


def test_other_ways_of_quantization_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match="quantized already, by gptq, and only those of bitsandbytes are read; name the model"
    ):
        open_model(str(folder), tmp_path).load(CAUSAL, {})
