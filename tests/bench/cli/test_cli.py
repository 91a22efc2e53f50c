"""The command line as a user meets it: what is printed, where, and the exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.testing import jobs

METHODBENCH = Path(sys.executable).parent / "methodbench"


def methodbench(*words, cwd=None, status=0, errors=False):
    done = subprocess.run(
        [METHODBENCH, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 and not errors else done.stderr


@pytest.fixture
def suite(tiny_bert, tmp_path):
    def write(recipes='full = "full"\nlora = "lora(r=2)"', **replace):
        text = f"""
title = "Tiny"
model = "{tiny_bert}"
[task]
kind = "classification"
data = "{jobs.table(tmp_path).data}"
[budget]
steps = 4
batch_size = 8
max_length = 32
[measure]
latency = [[1, 8]]
latency_samples = 3
[recipes]
{recipes}
"""
        for old, new in replace.items():
            text = text.replace(old, new)
        (tmp_path / "suite.toml").write_text(text)
        return tmp_path / "suite.toml"

    return write


@pytest.mark.parametrize("what", ["methods", "tasks", "kinds", "models", "suites"])
def test_list_as_json_has_name_and_kind(what):
    entries = json.loads(methodbench("list", what, "--json"))
    assert entries
    for entry in entries:
        assert entry["name"]
        assert entry["kind"]
        assert entry["summary"]
    assert entries[0]["name"] in methodbench("list", what)


def test_list_fits_80_columns():
    assert max(map(len, methodbench("list", "methods").splitlines())) <= 80


def test_show_has_all_there_is_to_know():
    page = methodbench("show", "lora")
    for part in (
        "lora  (trainer)",
        "r ",
        "int ≥ 1 ≤ 65536, default 8",
        "Evidence",
        "https://arxiv.org/abs/2106.09685",
        "lora(r=8)",
        "peft",
    ):
        assert part in page, part
    assert json.loads(methodbench("show", "lora", "--json"))["arguments"][0] == {
        "name": "r",
        "type": "int ≥ 1 ≤ 65536",
        "default": 8,
    }
    assert "Breaks with" not in page
    assert "Breaks with\n  it does not work on classification with transformers>=5.24" in methodbench("show", "prefix")
    assert "22.7 million" in methodbench("show", "minilm")
    assert "did you mean `lora`" in methodbench("show", "lorra", status=2)


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


def test_plan_draws_the_tree_and_says_why_not(suite, tmp_path):
    text = methodbench("plan", suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nbad = "merge"'))
    assert "full  full  to run" in text
    assert "└── torch_int8_dynamic  int8  to run" in text
    assert "2 stages (3 without sharing), 0 recorded, 2 to run" in text
    assert "\ndata: 120 texts read; " in text
    assert "refused  bad: merge: there is no adapter to fold" in methodbench(
        "plan", tmp_path / "suite.toml", errors=True
    )


def test_a_refusal_under_way_does_not_spoil_the_exit_status(suite, tmp_path):
    file = suite('full = "full"\nbad = "low_rank(energy=0.1) >> torchao_int8_weight_only"')
    said = " ".join(methodbench("run", file, "--out", tmp_path / "out").split())
    assert "refused bad: torchao_int8_weight_only: " in said
    assert "has a single input" in said
    report = json.loads(methodbench("report", tmp_path / "out", "--format", "json"))
    assert {entry["name"]: entry["status"] for entry in report["recipes"]} == {"full": "ok", "bad": "refused"}
    # But where nothing at all could be run, something is wrong with what was asked for.
    methodbench("run", file, "--out", tmp_path / "out", "--only", "bad", status=2)


def test_run_report_and_resume(suite, tmp_path):
    file = suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nbad = "merge"')
    out = tmp_path / "out"
    first = methodbench("run", file, "--out", out)
    assert "int8" in first
    assert (out / "report.html").exists()
    assert (out / "report.md").exists()
    lines = (out / "records.jsonl").read_text().count('"kind":"node"')
    methodbench("run", file, "--out", out)
    assert (out / "records.jsonl").read_text().count('"kind":"node"') == lines == 3
    assert "2 recorded, 0 to run" in methodbench("plan", file, "--out", out)

    report = json.loads(methodbench("report", out, "--format", "json"))
    by_name = {entry["name"]: entry for entry in report["recipes"]}
    assert by_name["full"]["status"] == "ok"
    assert by_name["full"]["recipe"] == "full"
    assert by_name["bad"]["status"] == "refused"
    assert {"value", "unit", "interval"} <= set(by_name["int8"]["metrics"]["accuracy"])
    assert by_name["int8"]["metrics"]["size_on_disk"]["unit"] == "B"
    assert methodbench("report", out, "--format", "md").startswith("#")
    assert methodbench("report", out, "--format", "csv").count("\n") >= 3
    assert methodbench("report", out, "--format", "html").startswith("<!doctype html>")

    pyperf = subprocess.run(
        [sys.executable, "-m", "pyperf", "stats", *sorted((out / "latency").glob("*.json"))],
        capture_output=True,
        text=True,
    )
    assert pyperf.returncode == 0, pyperf.stderr
    assert "Number of value" in pyperf.stdout


def test_recipes_of_the_command_line(tiny_bert, tmp_path):
    out = methodbench(
        "run", "--model", tiny_bert, "--task", "stdlib-topics", "--recipe", "head", "--recipe", "lora(r=2) + mixed_precision('bf16') >> merge",
        "--steps", "2", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert "merge" in out


def test_what_ran_and_did_not_end_ok_is_1(suite, tmp_path):
    methodbench("run", suite('full = "full"\nbad = "full(lr=1e30)"'), "--out", tmp_path / "out", status=1)
    report = json.loads(methodbench("report", tmp_path / "out", "--format", "json"))
    assert {entry["name"]: entry["status"] for entry in report["recipes"]} == {"full": "ok", "bad": "diverged"}


def test_a_timeout_is_recorded(suite, tmp_path):
    methodbench("run", suite('full = "full"'), "--out", tmp_path / "out", "--timeout", "0.1", status=1)
    report = json.loads(methodbench("report", tmp_path / "out", "--format", "json"))
    assert report["recipes"][0]["status"] == "timeout"


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


def test_a_report_of_broken_records_says_so(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    with (out / "records.jsonl").open("a") as file:
        file.write('{"schema": 1, "kind": "node", "id": "torn')
    assert "left out" in methodbench("report", out, "--format", "md")
    with (out / "records.jsonl").open("a") as file:
        file.write('\n{"schema": 99, "kind": "node"}\n')
    assert "upgrade" in methodbench("report", out, status=2)


def test_a_run_whose_output_nobody_reads_is_whole(suite, tmp_path):
    file, out = suite('full = "full"'), tmp_path / "out"
    methodbench("run", file, "--out", out)
    for ending in ("| true", "| head -1", ">/dev/full", ">&-", "2>&- >&-", "2>&1 | true", ">/dev/null"):
        for report in out.glob("report.*"):
            report.unlink()
        # Latin-1 has no sign for what tables are drawn with.
        command = f"set -o pipefail; PYTHONIOENCODING=latin-1 {METHODBENCH} run {file} --out {out} {ending}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=280)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (ending, done.stderr)
        assert {"report.html", "report.md"} <= {file.name for file in out.iterdir()}, ending
    for ending, status in (("| head -1", 0), (">/dev/full", 1)):
        command = f"set -o pipefail; {METHODBENCH} report {out} --format csv {ending}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=280)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), (ending, done.stderr)
    command = [METHODBENCH, "report", out, "--format", "md"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "±" in done.stdout.decode("utf-8")


def test_a_full_disk_is_recorded_and_ends_with_status_1(suite, tmp_path):
    file, out = suite('full = "full"\nint8 = "full >> torch_int8_dynamic"'), tmp_path / "out"
    command = f"ulimit -f 100; {METHODBENCH} run {file} --out {out}"  # in kB: too few for a checkpoint
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=280)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert f"methodbench: stopped: {out}: the disk is full" in done.stderr
    assert "free some space and run the same command again" in done.stderr
    report = json.loads(methodbench("report", out, "--format", "json"))
    assert report["recipes"][0]["reasons"][0].startswith("the disk is full")
    left = {path.name for path in out.rglob("*")} & {path.name for path in out.rglob("*.part")}
    assert not left | {path.name for path in out.rglob("pymp-*")} | {path.name for path in out.rglob("methodbench-*")}


def test_an_early_ctrl_c_is_130_and_quiet(suite, tmp_path):
    file = suite('full = "full"')
    for number, seconds in enumerate((0.15, 0.4, 0.8, 1.2, 2.0)):
        # A group of its own, as a terminal's Ctrl-C reaches every process of it.
        process = subprocess.Popen(
            [METHODBENCH, "run", file, "--out", tmp_path / str(number)],
            start_new_session=True,
            stderr=subprocess.PIPE,
            # Whatever these tests were started from, as a shell's background job is deaf to it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, b"Traceback" in said) == (130, False), (seconds, said)


def test_two_runs_into_one_folder_take_turns(suite, tmp_path):
    file = suite()
    command = [METHODBENCH, "run", str(file), "--out", str(tmp_path / "out")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert any("waiting" in text for output in outputs for text in output)
    nodes = [line for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines() if '"kind":"node"' in line]
    assert len(nodes) == 2


def test_doctor_and_schema():
    assert "noise" in methodbench("doctor")
    assert json.loads(methodbench("schema"))["title"] == "Suite"


def test_a_report_into_a_closed_pipe_is_quiet(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    done = subprocess.run(
        f"{METHODBENCH} report {out} --format html | head -c 10", shell=True, capture_output=True, text=True
    )
    assert done.stdout == "<!doctype "
    assert done.stderr == ""


def test_a_report_that_cannot_be_written_says_where(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    assert "report.html: Is a directory" in methodbench("report", out, status=2)
