"""The whole gate over a real repository: four mistakes in a package of somebody else's, each found and named in the JUnit file.

The package has four methods. Its head makes one of them slower by a sixteenth of the work of a step, has one keep 64 MiB, has
one spoil the model, and has one call a slow operator. A recipe without any of them must pass.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import junitparser
import pytest

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

BACKEND = """
import zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(Path(folder, "mine-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.write("mine.py")
        wheel.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        wheel.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("mine-1.0.dist-info/entry_points.txt", "[methodbench.methods]\\nmine = mine\\n")
        wheel.writestr("mine-1.0.dist-info/RECORD", "")
    return "mine-1.0-py3-none-any.whl"
"""

SUITE = """
title   = "Planted"
model   = "minilm"
task    = "stdlib-topics"
seeds   = [0]
threads = 1

[budget]
steps      = 12
batch_size = 16
max_length = 32

[measure]
latency = []

[gate]
throughput  = "3%"
peak_memory = "16 MiB"
accuracy    = "1 point"

[gate.scripts]
hello = "hello.py"

[recipes]
plain    = "head"
slow     = "head + mine_slow"
leak     = "head + mine_leak"
operator = "head + mine_operator"
spoiled  = "head >> mine_spoiled"
"""

METHODS = '''
"""Methods that do nothing of use."""

from dataclasses import dataclass

from bench.api import Claim, Modifier, Transform

HEAD = {head}


class Mine(Modifier):
    paper = "https://example.org"

    def evidence(self, before, work):
        yield Claim("it is there", True, "yes")


@dataclass(frozen=True)
class Slow(Mine):
    """Look at one item more in sixteen."""

    name = "mine_slow"
    example = "head + mine_slow"

    def wrap_gradients(self, training, compute):
        import torch

        def gradients(batch, scale):
            if HEAD:
                with torch.no_grad():
                    training.model(**{{name: tensor[:1] for name, tensor in batch.inputs.items()}})
            return compute(batch, scale)

        return gradients


@dataclass(frozen=True)
class Leak(Mine):
    """Keep something."""

    name = "mine_leak"
    example = "head + mine_leak"

    def on_start(self, training):
        import torch

        training.state[self.name] = torch.ones(2**24 if HEAD else 1)


@dataclass(frozen=True)
class Operator(Mine):
    """Compute the inverse of the error function."""

    name = "mine_operator"
    example = "head + mine_operator"

    def wrap_loss(self, training, compute):
        import torch

        numbers = torch.full((2**21,), 0.5)

        def loss(batch):
            slow = sum(float(numbers.erfinv()[0]) for _ in range(4)) if HEAD else 0.0
            return compute(batch) + 0 * slow

        return loss


@dataclass(frozen=True)
class Spoiled(Transform):
    """Leave the model as it is, or turn what it says round."""

    name = "mine_spoiled"
    paper = "https://example.org"
    example = "head >> mine_spoiled"

    def apply(self, work):
        import torch

        if HEAD:
            with torch.no_grad():
                work.model.classifier.weight.neg_()

    def evidence(self, before, work):
        yield Claim("it is there", True, "yes")
'''


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for name, text in (("pyproject.toml", PROJECT), ("backend.py", BACKEND), ("gate.toml", SUITE)):
        (folder / name).write_text(text)
    for tag, head in (("v1", False), ("v2", True)):
        (folder / "mine.py").write_text(METHODS.format(head=head))
        (folder / "hello.py").write_text(f"import sys\nsys.exit({int(head)} - {int(head)})\n")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", tag)
        git(folder, "tag", tag)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_planted_mistake_is_found_and_named(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["gate", str(repository / "gate.toml"), "--base", "v1", "--head", "v2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command],
        env={**os.environ, "METHODBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr

    verdict = json.loads((out / "gate.json").read_text())
    for side, tag in (("base", "v1"), ("head", "v2")):
        commit = subprocess.check_output(["git", "rev-parse", tag], cwd=repository, text=True).strip()
        assert verdict[side]["commit"] == commit
        assert Path(verdict[side]["modules"]["mine"]).is_relative_to(tmp_path / "cache")
    assert verdict["base"]["modules"]["mine"] != verdict["head"]["modules"]["mine"]

    failed = {
        (case.classname, case.name): case.result[0]
        for suite in junitparser.JUnitXml.fromfile(str(out / "junit.xml"))
        for case in suite
        if any(isinstance(result, junitparser.Failure) for result in case.result)
    }
    found = {(check["recipe"], check["metric"]) for check in verdict["checks"] if check["outcome"] == "regression"}
    assert found == {
        ("slow", "train_tokens_per_second"),
        ("operator", "train_tokens_per_second"),
        ("leak", "train_peak_bytes"),
        ("spoiled", "accuracy"),
    }
    assert len(failed) == len(found)
    grown = {check["recipe"]: [each["name"] for each in check["grown"]] for check in verdict["checks"]}
    assert "aten::erfinv" in grown["operator"]
    assert any("erfinv" in (failure.text or "") for failure in failed.values())
    leak = next(
        check for check in verdict["checks"] if (check["recipe"], check["metric"]) == ("leak", "train_peak_bytes")
    )
    assert leak["change"] == pytest.approx(64 * 2**20, rel=0.05)
