"""Models of the hub, from a cache laid out on the disk and from a server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.models.sources.hub import Hub
from tests import hub as hubs

HEAD = "AutoModelForSequenceClassification"
OPTIONS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no word of the user's."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    with mock.patch.dict(os.environ):
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "METHODBENCH_HF_HUB_OFFLINE"):
            os.environ.pop(name, None)
        yield folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_bert: Path) -> Iterator[hubs.Served]:
    """A hub that has a tiny BERT."""
    from huggingface_hub import constants

    with hubs.served() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        hub.repositories["org/bert"] = tiny_bert
        yield hub


@pytest.mark.parametrize("spec", ["org/bert", "org/bert@main", f"org/bert@{hubs.COMMIT}"])
def test_what_is_in_the_cache_asks_no_hub(spec: str, cache: Path, tiny_bert: Path, hub: hubs.Served) -> None:
    folder = hubs.cached(cache, "org/bert", tiny_bert)
    model = open_model(spec, Path())
    assert isinstance(model, Hub)
    assert (model.name, model.path) == (spec, folder)
    assert model.problems() == []
    assert model.to_make() == ""
    assert model.fingerprint() == hubs.COMMIT
    assert model.pinned(spec) == f"org/bert@{hubs.COMMIT}"
    assert model.notes() == [f"commit {hubs.COMMIT} of org/bert on the hub"]
    loaded, _ = model.load(HEAD, OPTIONS)
    assert loaded.config.model_type == "bert"  # type: ignore[union-attr]
    assert hub.asked == []


def test_a_revision_is_another_commit(cache: Path, tiny_bert: Path) -> None:
    hubs.cached(cache, "org/bert", tiny_bert)
    hubs.cached(cache, "org/bert", tiny_bert, hubs.OTHER, "v2")
    assert open_model("org/bert", Path()).fingerprint() == hubs.COMMIT
    assert open_model("org/bert@v2", Path()).fingerprint() == hubs.OTHER


def test_a_newer_commit_in_the_cache_is_not_what_was_planned(cache: Path, tiny_bert: Path) -> None:
    hubs.cached(cache, "org/bert", tiny_bert)
    pinned = open_model("org/bert", Path()).pinned("org/bert")
    hubs.cached(cache, "org/bert", tiny_bert, hubs.OTHER)
    assert open_model("org/bert", Path()).fingerprint() == hubs.OTHER
    assert open_model(pinned, Path()).fingerprint() == hubs.COMMIT


def test_what_is_not_there_is_planned_without_its_weights_and_then_fetched(hub: hubs.Served) -> None:
    model = open_model("org/bert", Path())
    assert "config.json" in hub.fetched()
    assert "model.safetensors" not in hub.fetched()
    assert model.problems() == []
    size = (hub.repositories["org/bert"] / "model.safetensors").stat().st_size
    assert model.to_make() == f"fetching org/bert from the hub, {size / 1e6:,.0f} MB"
    planned = model.examine(HEAD, OPTIONS)
    assert planned.problems == ()
    assert planned.head == "new"
    told: list[tuple[str, int, int]] = []
    model.make(lambda *seen: told.append(seen))
    assert "model.safetensors" in hub.fetched()
    assert told[-1] == ("fetch org/bert", size, size)
    assert model.to_make() == ""
    looked_at = model.examine(HEAD, OPTIONS)
    assert (looked_at.head, looked_at.stacks) == (planned.head, planned.stacks)
    before = len(hub.asked)
    again = open_model("org/bert", Path())
    assert again.fingerprint() == model.fingerprint() == hubs.COMMIT
    assert again.to_make() == ""
    again.load(HEAD, OPTIONS)
    assert len(hub.asked) == before


def test_what_is_there_in_part_is_completed(cache: Path, tiny_bert: Path, hub: hubs.Served) -> None:
    folder = hubs.cached(cache, "org/bert", tiny_bert)
    for file in [*folder.glob("tokenizer*"), folder / "model.safetensors"]:
        file.unlink()
    model = open_model("org/bert", Path())
    assert model.problems() == []
    assert model.to_make()
    model.load(HEAD, OPTIONS)  # as a student's is, which nothing makes before
    assert model.to_make() == ""


def test_only_what_is_needed_is_fetched(tmp_path: Path, hub: hubs.Served, tiny_bert: Path) -> None:
    folder = hub.repositories["org/bert"] = shutil.copytree(tiny_bert, tmp_path / "repository")
    for name in ("pytorch_model.bin", "consolidated.safetensors", "tf_model.h5", "README.md"):
        (folder / name).write_bytes(b"much")
    open_model("org/bert", Path()).load(HEAD, OPTIONS)
    assert set(hub.fetched()) == {file.name for file in tiny_bert.iterdir()}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "org/none",
            ["org/none: the hub has no such repository, or it is private", "hf auth login", 'model = "./none"'],
        ),
        ("org/bert@v9", ["org/bert has no branch, tag or commit `v9`", "/org/bert/tree/main"]),
        ("org/gated", ["it is gated: ask for access at ", "/org/gated", "hf auth login"]),
        ("org/pickled", ["not there as safetensors", "save_pretrained"]),
    ],
)
def test_what_the_hub_refuses(spec: str, said: list[str], hub: hubs.Served, tiny_bert: Path, tmp_path: Path) -> None:
    hub.repositories["org/gated"] = tiny_bert
    hub.gated.add("org/gated")
    folder = hub.repositories["org/pickled"] = shutil.copytree(tiny_bert, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError) as error:
        open_model(spec, Path())
    assert all(text in str(error.value) for text in said), error.value


def test_no_network_and_nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match="the hub does not answer") as error:
        open_model("org/bert", Path())
    assert "`hf download org/bert`" in str(error.value)
    assert 'model = "./bert"' in str(error.value)


def test_the_user_alone_says_that_no_hub_is_asked(hub: hubs.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from bench.execute.forkserver import prepared

    prepared()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as where huggingface_hub is imported after that
    open_model("org/bert", Path()).make(lambda *seen: None)
    assert constants.HF_HUB_OFFLINE is True
    assert hub.asked


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_user_says_that_no_hub_is_asked(name: str, hub: hubs.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.execute.forkserver import prepared

    monkeypatch.setenv(name, "1")
    prepared()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set") as error:
        open_model("org/bert", Path())
    assert "`hf download org/bert`" in str(error.value)
    assert hub.asked == []


@pytest.mark.slow
def test_a_suite_runs_on_a_model_of_the_hub(tmp_path: Path, tiny_bert: Path) -> None:
    """Planned, fetched in a process of its own, trained offline, recorded with its commit, and not fetched again."""
    from bench.testing import jobs

    suite = tmp_path / "suite.toml"
    jobs.table(tmp_path)
    suite.write_text(
        'model = "org/bert"\nbaseline = "full"\n[task]\nkind = "classification"\ndata = "data.csv"\n'
        "[budget]\nsteps = 4\nmax_length = 16\n[measure]\nlatency = []\nturns = 0\n[recipes]\nfull = 'full'\n"
    )
    command = [sys.executable, "-m", "bench", "run", str(suite), "--out", str(tmp_path / "out")]
    with hubs.served() as hub:
        hub.repositories["org/bert"] = tiny_bert
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
        environment.pop("HF_HUB_OFFLINE", None)
        words = [sys.executable, "-m", "bench", "plan", str(suite)]
        planned = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert "before the first stage: fetching org/bert from the hub, 0 MB" in planned.stdout, planned
        assert "model.safetensors" not in hub.fetched()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert hub.fetched().count("model.safetensors") == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    node = next(line for line in lines if line["kind"] == "node")
    assert (node["status"], node["model"], node["model_fingerprint"]) == ("ok", "org/bert", hubs.COMMIT)
    notes = next(line for line in lines if line["kind"] == "run")["notes"]
    assert any(hubs.COMMIT in note["text"] for note in notes)
    # The hub is gone now, and what is cached does.
    done = subprocess.run([*command, "--fresh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_an_adapter_of_the_hub_and_its_base(tmp_path: Path, hub: hubs.Served, tiny_llama: Path) -> None:
    from tests.bench.models.sources import test_adapter

    hub.repositories["org/base"] = tiny_llama
    hub.repositories["org/adapter"] = test_adapter.save(
        tiny_llama, tmp_path / "adapter", test_adapter.lora(), base_model_name_or_path="org/base"
    )
    model = open_model("org/adapter", Path())
    assert model.problems() == []
    assert model.pinned("org/adapter") == f"org/adapter@{hubs.COMMIT}"
    assert model.to_make().startswith("fetching org/base from the hub")
    own, base = model.notes()
    assert f"commit {hubs.COMMIT} of org/adapter on the hub" in own
    assert f"commit {hubs.COMMIT} of org/base on the hub" in base
    model.make(lambda *seen: None)
    loaded, _ = model.load("AutoModelForCausalLM", {})
    assert loaded.config.model_type == "llama"  # type: ignore[union-attr]
    asked = len(hub.asked)
    again = open_model(f"org/adapter@{hubs.COMMIT}", Path())
    assert again.fingerprint() == model.fingerprint()
    assert len(hub.asked) == asked
