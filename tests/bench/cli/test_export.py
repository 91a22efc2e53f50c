"""``methodbench export``: one run, whose models are kept, and what may be asked of its folder."""

import json
import shutil
import subprocess
import sys

import pytest

from bench.testing import jobs
from tests.command import METHODBENCH, methodbench

RECIPES = 'full = "full"\nlora = "lora(r=2)"\nbottleneck = "adapter"\nbad = "merge"'


@pytest.fixture(scope="module")
def kept(tiny_bert, tmp_path_factory):
    """A results folder with the models of all recipes but one, and a note of what is in it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "suite.toml").write_text(f"""
title = "Kept"
model = "{tiny_bert}"
seeds = [3, 1]
[task]
kind = "classification"
data = "{jobs.table(folder).data}"
[budget]
steps = 3
batch_size = 8
max_length = 32
[measure]
keep = ["full", "bottleneck"]
references = false
latency = []
turns = 0
[recipes]
{RECIPES}
""")
    methodbench("run", folder / "suite.toml", "--out", folder / "out", "-q")
    return folder / "out"


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_folder_with_a_card_is_written_and_loads(kept, tmp_path):
    text = methodbench("export", kept, "full", "--to", tmp_path / "new" / "winner")
    assert f"wrote {tmp_path / 'new' / 'winner'}: full, seed 3, for transformers" in text
    assert "proven: a fresh process without methodbench answers 4 test items the same, to 0 of the largest" in text
    assert names(tmp_path / "new") == {"winner"}
    card = (tmp_path / "new" / "winner" / "README.md").read_text()
    assert "seed 3 (the first of the suite; none was chosen by its figures)" in card
    lines = card.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\nprint(outputs.logits.shape)"],
        cwd=tmp_path / "new",
        capture_output=True,
        text=True,
    )
    assert "torch.Size([1, 3])" in done.stdout, done.stderr


def test_another_seed(kept, tmp_path):
    assert "full, seed 1," in methodbench("export", kept, "full", "--seed", "1", "--to", tmp_path / "w")
    assert "seed 1, as the suite" in (tmp_path / "w" / "README.md").read_text()


@pytest.mark.slow
def test_what_torch_alone_holds_goes_to_a_runtime(kept, tmp_path):
    pytest.importorskip("onnxruntime")
    said = methodbench("export", kept, "bottleneck", "--to", tmp_path / "w", status=2)
    assert (
        "transformers cannot hold this model: it has layers that its configuration cannot tell; these can: onnx" in said
    )
    methodbench("export", kept, "bottleneck", "--to", tmp_path / "w", "--format", "onnx", "-q")
    assert "what it costs there was not measured" in (tmp_path / "w" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ful"], "has no recipe `ful`; did you mean `full`?"),
        (["full", "--seed", "0"], "--seed 0: full was not run with it, but with 3, 1"),
        (["full", "--format", "onx"], "--format onx: there is no such format; did you mean `onnx`?"),
        (["full", "--task", "dat"], "--task dat: there is no such task in the run; did you mean `data`?"),
        (["bad"], "bad was refused: merge: there is no adapter to fold"),
        (["lora"], "the model of lora for seed 3 was not kept. This trains it again and keeps it:"),
    ],
)
def test_wrong_use_is_2_and_leaves_nothing(kept, tmp_path, words, says):
    assert says in methodbench("export", kept, *words, "--to", tmp_path / "new" / "w", status=2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused_and_an_empty_one_is_not(kept, tmp_path):
    (tmp_path / "mine").write_text("mine")
    assert "it is not empty; name a new folder" in methodbench("export", kept, "full", "--to", tmp_path, status=2)
    assert "it is a file" in methodbench("export", kept, "full", "--to", tmp_path / "mine", status=2)
    assert names(tmp_path) == {"mine"}
    assert "there are no records in it" in methodbench("export", tmp_path, "full", "--to", tmp_path / "w", status=2)


def test_a_seed_whose_model_is_there_is_named(kept, tmp_path):
    copy = shutil.copytree(kept, tmp_path / "out")
    run = next(json.loads(line) for line in (copy / "records.jsonl").read_text().splitlines() if '"kind":"run"' in line)
    first = next(cell["path"][-1] for cell in run["cells"] if (cell["name"], cell["seed"]) == ("full", 3))
    (copy / "checkpoints" / f"{first}.pt").unlink()
    said = methodbench("export", copy, "full", "--to", tmp_path / "w", status=2)
    assert "for seed 3 was not kept; there is one of seed 1: --seed 1." in said


@pytest.mark.slow
def test_the_command_that_is_named_makes_the_model_again(kept, tmp_path):
    copy = shutil.copytree(kept, tmp_path / "out")
    before = names(copy / "checkpoints")
    said = methodbench("export", copy, "lora", "--to", tmp_path / "w", status=2)
    command = said.strip().splitlines()[-1].split()
    assert command == ["methodbench", "rerun", str(copy), "lora", "--keep"]
    methodbench(*command[1:], "-q")
    assert names(copy / "checkpoints") > before
    methodbench("export", copy, "lora", "--to", tmp_path / "w", "-q")
    assert (tmp_path / "w" / "base" / "model.safetensors").is_file()


def test_a_format_whose_package_is_not_here_says_how_to_install_it(kept, tmp_path):
    """In a process in which the package cannot be found."""
    script = (
        "import importlib.util, sys\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'onnxruntime' else find(name, *more)\n"
        "from bench.cli.main import main\nmain()"
    )
    words = ["export", str(kept), "full", "--to", str(tmp_path / "w"), "--format", "onnx"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "onnx cannot hold this model: needs the package onnxruntime: pip install onnxruntime" in done.stderr
    assert "these can: transformers" in done.stderr


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(kept, tmp_path):
    """The kernel refuses to make files longer than a few kilobytes, as a full disk would."""
    words = ["export", kept, "full", "--to", tmp_path / "w"]
    limited = f"ulimit -f 40; exec {METHODBENCH} " + " ".join(map(str, words))
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert list(tmp_path.iterdir()) == []
