"""What all commands share: light start, clear errors and their exit status."""

import os
import subprocess
import sys

import pytest

from tests.command import methodbench


def test_planning_imports_no_torch(suite):
    for words in (["--help"], ["list", "methods"], ["show", "lora"], ["plan", str(suite())], ["plan", "encoder"]):
        code = (
            "import sys; sys.argv = ['methodbench', *" + repr(words) + "]\n"
            "from bench.cli.main import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'torch_pruning', 'pandas', 'altair', 'scipy'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nothing.toml"], "nothing.toml: no such file"),
        (["run"], "give a suite, or --model, --task and --recipe"),
        (["run", "SUITE", "--recipe", "full"], "one or the other"),
        (["run", "SUITE", "--only", "x*"], "'x*' matches no recipe; there are: full, lora"),
        (["run", "SUITE", "--seeds", "0"], "--seeds"),
        (["run", "SUITE", "--device", "tpu"], "device: input should be 'auto', 'cpu' or 'cuda'"),
        (["run", "SUITE", "--device", "cuda"], "cuda"),
        (["run", "SUITE", "--out", "/proc/nothing"], "/proc/nothing"),
        (["run", "SUITE", "--out", "SUITE/below"], "below"),
        (["run", "--model", "minilmm", "--task", "stdlib-topics", "--recipe", "full"], "did you mean `minilm`"),
        (["run", "--model", "minilm", "--task", "stdlib-topic", "--recipe", "full"], "did you mean `stdlib-topics`"),
        (["run", "--model", "minilm", "--task", "stdlib-topics", "--recipe", "fulll"], "did you mean `full`"),
        (
            ["run", "--model", "minilm", "--task", "stdlib-topics", "--recipe", "__import__('os').abort()"],
            "not in the grammar",
        ),
        (
            ["run", "--model", "minilm", "--task", "stdlib-topics", "--recipe", "merge", "--out", "OUT"],
            "no adapter to fold",
        ),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["run", "--model", "~nosuchuser/x", "--task", "stdlib-topics", "--recipe", "full"], "~nosuchuser"),
        (["plan", "PIPE"], "it is a pipe or a device"),
        (["list", "nothing"], "nothing"),
        (["show", "nothing"], "nothing is called `nothing`"),
        (["plan", "SUITE", "--steps", "0"], "--steps"),
    ],
)
def test_wrong_use_is_2_and_says_what_to_mend(suite, tmp_path, words, says):
    file = suite()
    if "PIPE" in words:
        os.mkfifo(tmp_path / "PIPE")
    words = [word.replace("SUITE", str(file)).replace("OUT", str(tmp_path / "out")) for word in words]
    assert says in methodbench(*words, cwd=tmp_path, status=2)
