"""``methodbench run``: what is printed, where, and the exit status."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.command import METHODBENCH, methodbench


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


def test_quiet_and_verbose(suite, tmp_path):
    file, out = suite('full = "full"\nwild = "full(lr=1e30)"'), tmp_path / "out"

    def run(*words):
        done = subprocess.run(
            [METHODBENCH, "run", file, "--out", out, "--fresh", *words], capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 1, done.stderr
        return done

    verbose, quiet = run("-v"), run("-q")
    full, wild = (line for line in verbose.stderr.splitlines() if line.startswith("["))
    assert re.search(
        r"full, seed 0: accuracy 0\.\d{3}, .*train_tokens_per_second \S+ tokens/s.*, latency_1x8 \S+ [mµ]?s", full
    )
    assert wild.startswith("[2/2] diverged")
    # Of the two, what ended ok is not said; the table has it.
    assert [line.split()[1] for line in quiet.stderr.splitlines() if line.startswith("[")] == ["diverged"]
    assert "to run" not in quiet.stderr
    assert "full" in quiet.stdout
    assert "wrote" not in quiet.stdout
    methodbench("run", file, "-q", "-v", status=2)


def test_recipes_of_the_command_line(tiny_bert, tmp_path):
    out = methodbench(
        "run", "--model", tiny_bert, "--task", "stdlib-topics", "--recipe", "head", "--recipe", "lora(r=2) + mixed_precision('bf16') >> merge",
        "--steps", "2", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert "merge" in out


def test_learning_rates_are_tuned_first_and_once(suite, tmp_path):
    file, out = (
        suite("""full = "full"
small = "full >> bnb_int8"
[tune]
lr = [0.0001, 0.01, 1e5]
steps = 2"""),
        tmp_path / "out",
    )
    said = methodbench("run", file, "--out", out, errors=True)
    assert "Learning rates first: 2 recipes × 3 rates, 2 steps each, by the validation split" in said
    assert re.search(r"\nfull: lr (0.0001|0.01), with a validation accuracy of 0\.\d{3}", said)
    plan = methodbench("plan", file, "--out", out)
    assert "by the validation split: 6 stages, 0 to run" in plan
    assert "2 stages (3 without sharing), 2 recorded, 0 to run" in plan
    again = methodbench("rerun", out, "full", errors=True)
    assert "0 stages to run, 3 recorded" in again  # the trials of that recipe
    assert "1 stage to run, 0 recorded" in again
    report = json.loads(methodbench("report", out, "--format", "json"))
    assert {entry["name"]: entry["status"] for entry in report["recipes"]} == {"full": "ok", "small": "ok"}
    (tuned, _) = report["comparisons"][0]["tuning"]
    assert [trial["lr"] for trial in tuned["trials"]] == [0.0001, 0.01, 1e5]


def test_steps_and_epochs_are_one_or_the_other(suite, tmp_path):
    file = suite('full = "full"')
    assert "give one or the other" in methodbench("run", file, "--steps", "2", "--epochs", "1", status=2)
    methodbench("run", file, "--out", tmp_path / "out", "--epochs", "0.2")  # instead of the suite's steps
    line = next(
        json.loads(line)
        for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()
        if json.loads(line)["kind"] == "node"
    )
    assert len(line["training"]["losses"]) == 3  # a fifth of 84 items, in batches of 8


def test_what_ran_and_did_not_end_ok_is_1(suite, tmp_path):
    methodbench("run", suite('full = "full"\nbad = "full(lr=1e30)"'), "--out", tmp_path / "out", status=1)
    report = json.loads(methodbench("report", tmp_path / "out", "--format", "json"))
    assert {entry["name"]: entry["status"] for entry in report["recipes"]} == {"full": "ok", "bad": "diverged"}


def test_a_timeout_is_recorded(suite, tmp_path):
    methodbench("run", suite('full = "full"'), "--out", tmp_path / "out", "--timeout", "0.1", status=1)
    report = json.loads(methodbench("report", tmp_path / "out", "--format", "json"))
    assert report["recipes"][0]["status"] == "timeout"


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


def test_settle_adds_seeds_and_a_recipe_of_that_run_runs_again(suite, tmp_path):
    file = suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nfast = "full(lr=0.001)"')
    # So wide a margin that more seeds may show that a recipe is the same, and three cannot.
    table = "seeds = [0, 1, 2]\n" + file.read_text().replace("latency = [[1, 8]]", "latency = []")
    file.write_text(table + '[compare]\nmargin = "45 points"\n')
    out = tmp_path / "out"
    said = methodbench("run", file, "--out", out, "--settle", "--max-seeds", "5", errors=True)
    assert re.search(
        r"Settled in accuracy: \d of 2 recipes\.\nNot settled: .*and the baseline full get seeds 3, 4\.", said
    )

    def last():
        lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        return [line for line in lines if line["kind"] == "run"][-1], [line for line in lines if line["kind"] == "node"]

    run, nodes = last()
    seeds = {name: [cell["seed"] for cell in run["cells"] if cell["name"] == name] for name in run["recipes"]}
    assert seeds["full"] == [0, 1, 2, 3, 4]
    assert run["settle"]["looks"] == [3, 5, 8, 12, 18]
    assert run["suite"]["seeds"] == [0, 1, 2]
    methodbench("run", file, "--out", out, "--settle", "--max-seeds", "5")
    assert len(last()[1]) == len(nodes)

    methodbench("rerun", out, "fast")
    again, more = last()
    assert [again[key] for key in ("cells", "settle", "suite")] == [run[key] for key in ("cells", "settle", "suite")]
    assert [node["seed"] for node in more[len(nodes) :]] == seeds["fast"]

    assert "--max-seeds: it bounds the seeds that --settle adds" in methodbench(
        "run", file, "--max-seeds", "5", status=2
    )
    said = methodbench("run", file, "--settle", "--max-seeds", "2", status=2)
    assert "--max-seeds 2: the suite has 3 seeds already; give 5 to 18" in said


def test_the_untrained_model_is_scored_once_and_shown_beside_the_recipes(suite, tmp_path):
    file, out = suite('full = "full"', **{"references = false": "references = true"}), tmp_path / "out"

    def run():
        command = [METHODBENCH, "run", file, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        return done, [line for line in lines if line["kind"] == "reference"]

    done, (line,) = run()
    assert "1 untrained model to score" in done.stderr
    assert (line["status"], line["seed"], line["model"]) == ("ok", 0, "tiny-bert")
    chance, untrained = (line[name]["metrics"]["accuracy"] for name in ("chance", "untrained"))
    assert f"For reference: chance {chance:.3f}, untrained {untrained:.3f}." in done.stdout
    assert not list((out / "logs").iterdir())
    done, lines = run()
    assert ("untrained model" in done.stderr, len(lines)) == (False, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_ten_times_in_mid_training_comes_to_the_same(suite, tmp_path):
    file = suite("lora = \"lora(r=2) + schedule('cosine')\"")
    file.write_text(file.read_text().replace("steps = 4", "steps = 1000").replace("latency = [[1, 8]]", "latency = []"))
    methodbench("run", file, "--out", tmp_path / "whole", "--checkpoint-minutes", "0")
    moment = random.Random(0)
    for number in range(10):
        process = subprocess.Popen(
            [METHODBENCH, "run", file, "--out", tmp_path / "killed", "--checkpoint-minutes", "0.0001"],
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        before = saved(tmp_path / "killed")
        while saved(tmp_path / "killed") == before:
            assert process.poll() is None, (number, process.communicate())
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    said = methodbench("run", file, "--out", tmp_path / "killed", errors=True)

    whole, killed = (
        next(
            record
            for line in (tmp_path / name / "records.jsonl").read_text().splitlines()
            if (record := json.loads(line))["kind"] == "node"
        )
        for name in ("whole", "killed")
    )
    resumed = killed["training"]["resumed"]
    assert len(resumed) == 10
    assert resumed == sorted(set(resumed))
    assert f"the training goes on after step {resumed[-1]} of 1000" in said
    assert killed["training"]["losses"] == whole["training"]["losses"]
    assert killed["training"]["tokens"] == whole["training"]["tokens"]
    assert len(killed["training"]["step_seconds"]) == 1000
    assert killed["quality"] == whole["quality"]
    assert [each["text"] for each in killed["evidence"]] == [each["text"] for each in whole["evidence"]]
    assert list((tmp_path / "killed" / "checkpoints").iterdir()) == []
    assert "went on in another process" in (tmp_path / "killed" / "report.md").read_text()


def saved(out):
    """When the checkpoint of a training was written last."""
    return [file.stat().st_mtime_ns for file in (out / "checkpoints").glob("*.training")]
