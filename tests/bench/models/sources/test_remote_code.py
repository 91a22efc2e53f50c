"""Code that comes with a model's files: it runs only where the suite says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.models.sources.directory import Directory
from bench.testing import jobs

HEAD = "AutoModelForSequenceClassification"
OPTIONS = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}

CODE = """
from transformers import BertConfig, BertForSequenceClassification


class OwnConfig(BertConfig):
    model_type = "own"


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tiny_bert: Path, tmp_path: Path) -> Path:
    """A BERT whose code is in a file beside its weights."""
    folder = shutil.copytree(tiny_bert, tmp_path / "own")
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", HEAD: "own.OwnForSequenceClassification"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies code into a folder of the test's."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_it_does_not_run_where_the_suite_is_silent(own: Path, tmp_path: Path) -> None:
    model = open_model(str(own), tmp_path)
    (problem,) = model.examine(HEAD, OPTIONS).problems
    assert "`auto_map` in config.json), which is not run" in problem
    assert "allow_remote_code = true" in problem
    with pytest.raises(ModelError, match="allow_remote_code = true"):
        model.load(HEAD, OPTIONS)
    assert model.notes() == []


def test_it_runs_where_the_suite_allows_it_and_the_report_says_so(own: Path, tmp_path: Path) -> None:
    model = open_model(str(own), tmp_path, allow_remote_code=True)
    assert model.examine(HEAD, OPTIONS).problems == ()
    loaded, _ = model.load(HEAD, OPTIONS)
    assert type(loaded).__name__ == "OwnForSequenceClassification"
    (note,) = model.notes()
    assert note == "code that came with its files runs in each stage, which the suite allows (`allow_remote_code`)"


def test_the_fingerprint_has_the_code_that_runs(own: Path, tiny_bert: Path) -> None:
    silent = Directory(own).fingerprint()
    allowed = Directory(own, allow_remote_code=True).fingerprint()
    (own / "own.py").write_text(CODE + "# changed")
    assert Directory(own).fingerprint() == silent != allowed
    assert Directory(own, allow_remote_code=True).fingerprint() not in (silent, allowed)
    plain = Directory(tiny_bert, allow_remote_code=True)
    assert plain.fingerprint() == Directory(tiny_bert).fingerprint()
    assert plain.notes() == []


@pytest.mark.slow
def test_stages_find_the_code_that_a_checkpoint_needs(own: Path, tmp_path: Path) -> None:
    jobs.table(tmp_path)
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'model = "own"\nallow_remote_code = true\n[task]\nkind = "classification"\ndata = "data.csv"\n'
        "[budget]\nsteps = 4\nmax_length = 16\n[measure]\nlatency = [[1, 8]]\nlatency_samples = 3\nturns = 0\n"
        "[recipes]\nfull = 'full'\nless = 'full >> magnitude(0.5)'\n"
    )
    command = [sys.executable, "-m", "bench", "run", str(suite), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for report in ("report.md", "report.html"):
        assert "code that came with its files runs in each stage" in (tmp_path / "out" / report).read_text(), report
