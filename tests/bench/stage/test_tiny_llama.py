"""The model that is made here: how it is made, kept and known; and, slowly, the real one."""

import os
import subprocess
import sys
import time

import pytest
import torch

from bench.models.base import ModelError
from bench.models.registry import models, open_model
from bench.stage import tiny_llama
from bench.stage.tiny_llama import CONFIG, TinyLlama
from bench.suite.suite import Budget
from bench.tasks.sources import stdlib_code
from bench.tasks.sources.stdlib_code import MODULES
from bench.testing import jobs


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The model's class with an hour's work taken out: a library made up for the test, two steps, a cache of its own."""
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tiny_llama, "BUDGET", Budget(steps=2, batch_size=2, max_length=16))
    monkeypatch.setattr(stdlib_code.sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()
    for number, name in enumerate(MODULES):
        lines = [f"def {name}_{line * number % 61}(self, x{line}): return {line}\n" for line in range(30)]
        (tmp_path / "lib" / f"{name}.py").write_text("".join(lines))
    return TinyLlama


def test_it_is_registered():
    assert models()["tiny-llama"] is TinyLlama
    assert TinyLlama.pretrained


def test_it_is_made_once_and_kept(small, monkeypatch):
    model = small()
    assert model.problems() == []
    assert model.to_make() == "making tiny-llama once, in about 3 minutes"
    told = []
    model.make(lambda *progress: told.append(progress))
    assert told == [("make tiny-llama", 1, 2), ("make tiny-llama", 2, 2)]
    again = small()
    assert again.to_make() == ""
    monkeypatch.setattr(small, "make_in", lambda *args: pytest.fail("made again"))
    again.make()
    loaded, tokenizer = again.load("AutoModelForCausalLM", {})
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 1_054_080
    assert {key: getattr(loaded.config, key) for key in CONFIG} == dict(CONFIG)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    text = "def größe(self):\n    return '🙂'  # \x00\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids[1:]) == text
    assert {path.name for path in again.path.parent.iterdir()} == {"lock", again.path.name}, "nothing half made is left"


def test_loading_makes_it_where_nobody_has(small):
    model, tokenizer = small().load("AutoModelForSequenceClassification", {"num_labels": 4})
    inputs = tokenizer(["def f", "class A:\n    pass"], padding=True, return_tensors="pt")
    assert model(**inputs).logits.shape == (2, 4)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0


def test_making_it_is_the_same_each_time_and_leaves_the_process_as_it_was(small):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = small()
    first.make()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    weights = (first.path / "model.safetensors").read_bytes()
    (first.path / "config.json").unlink()  # damaged: it is made again, over what is left
    second = small()
    assert second.to_make()
    second.make()
    assert (second.path / "model.safetensors").read_bytes() == weights


def test_a_failure_leaves_nothing(small, monkeypatch):
    def fail(self, folder, progress):
        (folder / "config.json").write_text("{}")
        raise MemoryError

    monkeypatch.setattr(small, "make_in", fail)
    model = small()
    with pytest.raises(MemoryError):
        model.make()
    assert [path.name for path in model.path.parent.iterdir()] == ["lock"]


def test_two_processes_make_it_once(small, tmp_path):
    program = f"""
import sys, time
from bench.stage import tiny_llama
from bench.stage.tiny_llama import TinyLlama
from bench.suite.suite import Budget
from bench.tasks.sources import stdlib_code
stdlib_code.sysconfig.get_path = lambda name: {str(tmp_path / "lib")!r}
tiny_llama.BUDGET = Budget(steps=2, batch_size=2, max_length=16)
real = TinyLlama.make_in
def slow(self, folder, progress):
    print("made", flush=True)
    time.sleep(1)
    real(self, folder, progress)
TinyLlama.make_in = slow
TinyLlama().make()
"""
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "made\n"]


def test_the_fingerprint_is_of_all_that_it_is_made_of(small, tmp_path, monkeypatch):
    prints = [small().fingerprint()]
    monkeypatch.setattr(tiny_llama, "BUDGET", Budget(steps=3, batch_size=2, max_length=16))
    prints.append(small().fingerprint())
    monkeypatch.setattr(tiny_llama, "RECIPE", 'pretrain("clm")')
    prints.append(small().fingerprint())
    monkeypatch.setattr(tiny_llama, "CONFIG", {**CONFIG, "num_hidden_layers": 6})
    prints.append(small().fingerprint())
    monkeypatch.setattr(tiny_llama, "version", lambda name: "9")
    prints.append(small().fingerprint())
    (tmp_path / "lib/abc.py").write_text("# other\n")
    prints.append(small().fingerprint())
    assert len(set(prints)) == 6
    assert small().fingerprint() == prints[-1]
    assert not (tmp_path / "cache/tiny-llama").exists(), "known before it is made"


def test_a_cache_that_cannot_be_written_is_a_problem(small, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("not a folder")
    (problem,) = small().problems()
    assert (
        problem
        == f"{tmp_path / 'cache'} cannot be written, and the model is kept there; name another place in METHODBENCH_CACHE"
    )
    with pytest.raises(ModelError, match="cannot be written"):
        small().load("AutoModelForCausalLM", {})


def test_missing_sources_are_a_problem(small, tmp_path):
    (tmp_path / "lib/abc.py").unlink()
    (problem,) = small().problems()
    assert "has no sources of abc" in problem
    with pytest.raises(ModelError, match="no sources of abc"):
        small().load("AutoModelForCausalLM", {})


def test_planning_imports_no_torch_and_is_quick(tmp_path):
    program = """
import sys, time
from pathlib import Path
from bench.models.registry import open_model
def plan():
    for name in ("tiny-llama", "random:bert-base", "random:llama-3.2-1b"):
        model = open_model(name, Path())
        assert model.problems() == [] and len(model.fingerprint()) == 64 and model.model_type()
        assert model.to_make().startswith("making") == (name == "tiny-llama"), name
        assert model.config()["num_attention_heads"]
plan()
began = time.perf_counter()
plan()
assert time.perf_counter() - began < 0.5  # some 30 ms where nothing else runs
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-P", "-c", program], check=True, env={**os.environ, "METHODBENCH_CACHE": str(tmp_path)}
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_real_one_has_learned_python(tmp_path):
    """Minutes, unless the session's cache has it."""
    began = time.perf_counter()
    model = open_model("tiny-llama", tmp_path)
    model.make()
    print(f"{time.perf_counter() - began:.0f} s")
    loaded, tokenizer = model.load("AutoModelForCausalLM", {})
    metrics = model.code.evaluate(loaded.eval(), tokenizer, batch_size=32, max_length=128).metrics
    assert metrics["bits_per_byte"] < 2.2
    for text, task in [("full", "stdlib-code"), ("lora(r=4)", "stdlib-topics")]:
        status, reason, (record,) = jobs.run(
            text, "tiny-llama", tmp_path, task=task, budget={"steps": 20, "batch_size": 8, "max_length": 64}
        )
        assert status == "ok", reason
        assert record["quality"]["metrics"]
