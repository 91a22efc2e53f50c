"""``methodbench track``, and ``methodbench run --track``."""

import json
import os

import pytest

from tests import synthetic
from tests.command import methodbench


@pytest.fixture
def folder(tmp_path):
    return synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")


def test_what_was_not_sent_is_sent(folder):
    pytest.importorskip("tensorboard")
    said = methodbench("track", folder, "--to", "tensorboard")
    assert said == f"tensorboard: 15 sent, 0 there before; `tensorboard --logdir {folder / 'tensorboard'}` shows them\n"
    assert methodbench("track", folder).startswith("tensorboard: 0 sent, 15 there before; ")


def test_what_fails_is_said_and_can_be_sent_later(folder):
    pytest.importorskip("tensorboard")
    (folder / "tensorboard").touch()
    said = methodbench("track", folder, "--to", "tensorboard", status=1)
    assert "tensorboard: 15 cells not sent: NotADirectoryError: " in said
    assert f"`methodbench track {folder} --to tensorboard` sends them" in said
    (folder / "tensorboard").unlink()
    assert methodbench("track", folder).startswith("tensorboard: 15 sent, 0 there before; ")


def test_wrong_use_is_said(folder, tmp_path):
    assert "nothing was sent from it yet; say where to" in methodbench("track", folder, status=2)
    assert "'neptune' is not one of" in methodbench("track", folder, "--to", "neptune", status=2)
    assert "no such folder" in methodbench("track", tmp_path / "nowhere", "--to", "wandb", status=2)
    (folder / "tracked.json").write_text("no JSON")
    assert "tracked.json: it is damaged; remove it" in methodbench("track", folder, status=2)


def test_a_run_sends_each_cell_and_goes_on_where_that_fails(suite, tmp_path):
    pytest.importorskip("tensorboard")
    out = tmp_path / "out"
    out.mkdir()
    (out / "tensorboard").touch()
    words = ("run", suite('full = "full"'), "--out", out, "--track", "tensorboard")
    said = methodbench(*words, errors=True)
    assert "tensorboard: 1 cell not sent: NotADirectoryError: " in said
    assert f"`methodbench track {out} --to tensorboard` sends them" in said
    (out / "tensorboard").unlink()
    said = methodbench(*words, errors=True)
    assert "tensorboard: 1 cell sent; `tensorboard --logdir " in said
    assert len(json.loads((out / "tracked.json").read_text())["sent"]["tensorboard"]) == 1


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_runs(suite, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'wandb' else find(name, *more)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    said = methodbench("run", suite(), "--out", tmp_path / "out", "--track", "wandb", status=2)
    assert said == 'methodbench: error: the tracker wandb needs the package wandb; pip install "methodbench[wandb]"\n'
    assert not (tmp_path / "out").exists()
