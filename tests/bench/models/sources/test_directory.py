from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.models.base import ModelError
from bench.models.sources.directory import Directory

OPTIONS = {"num_labels": 3}
HEAD = "AutoModelForSequenceClassification"


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert, tmp_path / "copy")


def shard(folder: Path, *, safe: bool) -> list[Path]:
    """Turn the one file of weights into two and an index."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    files = [folder / f"{stem}-0000{part}-of-00002.{suffix}" for part in (1, 2)]
    parts = [dict(list(weights.items())[part::2]) for part in (0, 1)]
    for file, part in zip(files, parts, strict=True):
        if safe:
            save_file(part, file, metadata={"format": "pt"})
        else:
            torch.save(part, file)
    index = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return files


@pytest.mark.parametrize(("name", "model_type"), [("tiny_bert", "bert"), ("tiny_llama", "llama")])
def test_load(name: str, model_type: str, request: pytest.FixtureRequest) -> None:
    import torch

    model = Directory(request.getfixturevalue(name))
    assert model.problems() == []
    assert model.model_type() == model_type
    loaded, tokenizer = model.load(HEAD, OPTIONS)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded.config.num_labels == 3  # type: ignore[union-attr]
    assert loaded.config.pad_token_id == tokenizer.pad_token_id == 0  # type: ignore[union-attr]
    half, _ = model.load(HEAD, {**OPTIONS, "dtype": torch.bfloat16})
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_loading_is_quiet_and_leaves_transformers_as_it_was(tiny_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging as settings

    before = settings.get_verbosity(), settings.is_progress_bar_enabled()
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(listener)
    try:
        Directory(tiny_bert).load(HEAD, OPTIONS)
    finally:
        logging.getLogger("transformers").removeHandler(listener)
    assert said == []
    assert "".join(capfd.readouterr()) == ""
    assert (settings.get_verbosity(), settings.is_progress_bar_enabled()) == before


def test_the_loaded_weights_are_those_of_the_file(tiny_bert: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model, _ = Directory(tiny_bert).load("AutoModel", {})
    saved, found = load_file(tiny_bert / "model.safetensors"), model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_a_tokenizer_without_padding_pads_with_the_end_token(tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    copy = shutil.copytree(tiny_llama, tmp_path / "copy")
    for name, key in (("tokenizer_config.json", "pad_token"), ("config.json", "pad_token_id")):
        found = json.loads((copy / name).read_text())
        del found[key]
        (copy / name).write_text(json.dumps(found))
    model, tokenizer = Directory(copy).load(HEAD, OPTIONS)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id == 2  # type: ignore[union-attr]
    inputs = tokenizer(["short", "rather longer"], padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model.eval()(**inputs).logits[0]
        alone = model(**tokenizer(["short"], return_tensors="pt")).logits[0]
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("safe", [True, False])
def test_shards(safe: bool, copy: Path) -> None:
    import torch

    whole, _ = Directory(copy).load("AutoModel", {})
    files = shard(copy, safe=safe)
    model = Directory(copy)
    assert model.problems() == []
    parts, _ = model.load("AutoModel", {})
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), parts.parameters(), strict=True))
    before = model.fingerprint()
    files[0].write_bytes(files[0].read_bytes()[:-20])
    assert model.fingerprint() != before
    with pytest.raises(ModelError) as error:
        model.load("AutoModel", {})
    assert str(files[0]) in str(error.value)
    files[1].unlink()
    assert model.problems() == [f"{copy}: weights named in its index are missing: {files[1].name}; copy them"]


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def no_tokenizer(folder: Path) -> None:
    for name in ("vocab.txt", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)


def adapter_in_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "{}: no such directory"),
        (unlink("config.json"), "{}/config.json: no such file; save the model there"),
        (unlink("model.safetensors"), "{}: it has no weights (model.safetensors or pytorch_model.bin, "),
        (adapter_in_a_pickle, "save the adapter there with PEFT's save_pretrained, as adapter_model.safetensors"),
        (no_tokenizer, "{}: it has no tokenizer files (tokenizer.json, vocab.txt, ...)"),
        (write("config.json", "{"), "{}/config.json: not JSON: Expecting property name"),
        (write("config.json", "[]"), "{}/config.json: not a JSON object"),
        (write("config.json", "{}"), "{}/config.json: it has no `model_type`"),
    ],
)
def test_faults(harm: Callable[[Path], object], message: str, copy: Path) -> None:
    harm(copy)
    (problem,) = Directory(copy).problems()
    assert message.format(copy) in problem
    with pytest.raises(ModelError):
        Directory(copy).load(HEAD, OPTIONS)


def test_an_index_that_names_nothing(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    (copy / "model.safetensors.index.json").write_text("{}")
    (problem,) = Directory(copy).problems()
    assert "model.safetensors.index.json: it has no `weight_map`" in problem


@pytest.mark.parametrize("elsewhere", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_that_leaves_the_folder(elsewhere: str, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": elsewhere}}))
    (problem,) = Directory(copy).problems()
    assert f"`weight_map` names {elsewhere!r}, which is not a file of this folder" in problem


def test_a_config_that_is_a_pipe(copy: Path) -> None:
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")
    (problem,) = Directory(copy).problems()
    assert "config.json: cannot be read: it is a pipe or a device" in problem


@pytest.mark.parametrize("cut", [0, 4, 500, -100])
def test_weights_that_are_cut_off(cut: int, copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ModelError, match="copy it again") as error:
        Directory(copy).load(HEAD, OPTIONS)
    assert str(file) in str(error.value)


def test_an_architecture_that_transformers_does_not_know(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "of-tomorrow"}')
    with pytest.raises(ModelError, match="transformers cannot load it") as error:
        Directory(copy).load(HEAD, OPTIONS)
    assert str(copy) in str(error.value)


def test_the_fingerprint_covers_what_matters_alone(copy: Path) -> None:
    before = Directory(copy).fingerprint()
    (copy / "README.md").write_text("other")
    assert Directory(copy).fingerprint() == before
    seen = {before}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content + b" ")
        seen.add(Directory(copy).fingerprint())
        (copy / name).write_bytes(content)
    assert len(seen) == 5
    assert Directory(copy).fingerprint() == before
