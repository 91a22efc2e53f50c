"""What all commands share: light start, clear errors and their exit status."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.command import METHODBENCH, methodbench


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
        if words[0] == "plan":  # so that the data is in the cache: to write it there, pyarrow imports pandas
            subprocess.run([METHODBENCH, *words], capture_output=True, check=True)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)


def test_version_and_short_help():
    assert methodbench("--version") == methodbench("-V") == f"methodbench {version('methodbench')}\n"
    assert methodbench("-h") == methodbench("--help")
    for command in ("plan", "run", "gate"):
        assert methodbench(command, "-h") == methodbench(command, "--help")


def test_help_is_whole_and_as_wide_as_the_terminal():
    said = {columns: methodbench("--help", columns=columns) for columns in (80, 120)}
    for text in said.values():
        assert "..." not in text.partition("Commands:")[2]
        assert "what is recorded, and what is refused and why" in " ".join(text.split())
    assert [max(map(len, text.splitlines())) > 80 for text in said.values()] == [False, True]


def test_one_wording_of_exit_statuses():
    plan, run, gate = (" ".join(methodbench(command, "-h").split()) for command in ("plan", "run", "gate"))
    assert plan.partition("Exit status: ")[2] == run.partition("Exit status: ")[2] != ""
    assert "130 interrupted by Ctrl-C." in gate


def test_completion_knows_the_commands():
    asked = {**os.environ, "_METHODBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "methodbench p", "COMP_CWORD": "1"}
    done = subprocess.run([METHODBENCH], env=asked, capture_output=True, text=True)
    assert "plan" in done.stdout.split()


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color(suite, tmp_path, no_color, coloured):
    environment = {**os.environ, "FORCE_COLOR": "1", "NO_COLOR": no_color, "TERM": "xterm-256color"}
    command = [METHODBENCH, "run", suite('bad = "merge"'), "--out", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]", done.stdout)) is coloured, done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "nothing.toml"], "nothing.toml: no such file"),
        (["plan", "encodr"], "encodr: no such file; did you mean `encoder`?"),
        (["plan", "suit.toml"], "suit.toml: no such file; did you mean `suite.toml`?"),
        (
            ["plan", "--model", "org/no-such-name", "--task", "stdlib-topics", "--recipe", "full"],
            'name a folder that holds it, as in model = "./no-such-name"',
        ),
        (
            ["plan", "--model", "minilm", "--task", "stdlib-topics", "--recipe", "full >> lora(q=3)"],
            "\n  full >> lora(q=3)\n               ^\n",
        ),
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
def test_wrong_use_is_2_and_says_what_to_mend(suite, tmp_path, words, says, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    file = suite()
    if "PIPE" in words:
        os.mkfifo(tmp_path / "PIPE")
    words = [word.replace("SUITE", str(file)).replace("OUT", str(tmp_path / "out")) for word in words]
    assert says in methodbench(*words, cwd=tmp_path, status=2)
