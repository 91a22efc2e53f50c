"""``methodbench gate``: its exit statuses, its files, and what it says of wrong use. The sides are programs without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench.gate.sides import LATENCY, THROUGHPUT, side

GATE = '[gate]\nthroughput = "3%"\nlatency = "3%"\npeak_memory = "16 MiB"\naccuracy = "1 point"\n'
FILE = 'model = "minilm"\ntask = "stdlib-topics"\n[budget]\nsteps = 10\n[recipes]\nfull = "full"\n'


def methodbench(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "80", **variables},
        capture_output=True,
        text=True,
    )


def gate(
    folder: Path, head: dict[str, Any] | None = None, *more: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    (folder / "gate.toml").write_text(FILE + GATE)
    base, other = (side(folder / which, which, **(table or {})) for which, table in (("base", None), ("head", head)))
    sides = ("--base-python", str(base.python), "--head-python", str(other.python))
    return methodbench("gate", "gate.toml", *sides, "--out", "out", *more, folder=folder, **variables)


def test_nothing_worse_ends_with_0_and_writes_every_file(tmp_path: Path) -> None:
    done = gate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Pass: nothing became worse than is allowed, in 4 checks.")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert {file.name for file in (tmp_path / "out").iterdir() if file.is_file()} == {
        "gate.json", "gate.md", "junit.xml", "benchmark-smaller.json", "benchmark-bigger.json", "bencher.json",
        "pyperf-base.json", "pyperf-head.json", "pairs.jsonl",
    }  # fmt: skip


def test_a_regression_ends_with_1_and_is_annotated_on_github(tmp_path: Path) -> None:
    slower = {"seconds": {THROUGHPUT: 0.0106, LATENCY: 0.002}}
    summary = tmp_path / "summary.md"
    done = gate(tmp_path, slower, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1, done.stderr
    assert "Regression: " in done.stdout
    assert "slower" in done.stdout
    assert "\n::error title=" in done.stdout
    assert "Regression: " in summary.read_text()


def test_what_cannot_run_ends_with_2(tmp_path: Path) -> None:
    done = gate(tmp_path, {"fail": "prepare"})
    assert done.returncode == 2
    assert "methodbench: error: head" in done.stderr
    assert "no such recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_told_ends_with_3(tmp_path: Path) -> None:
    done = gate(tmp_path, {"machine": {"cpu": "another"}})
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("Inconclusive: the sides ran on different machines")


def test_a_tolerance_of_the_command_line_goes_before_the_suites(tmp_path: Path) -> None:
    slower = {"seconds": {THROUGHPUT: 0.0106, LATENCY: 0.002}}
    assert gate(tmp_path, slower, "--allow", "throughput=20%").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gate.toml"], "say what is compared, in one way: --base, or --base-python and --head-python, or"),
        (["gate.toml", "--base", "x", "--base-recipe", "full", "--head-recipe", "full"], "in one way"),
        (["gate.toml", "--head", "x"], "say what is compared"),
        (["--base", "x"], "give a suite"),
        (["gate.toml", "--base-recipe", "full", "--head-recipe", "full", "--model", "minilm"], "a suite says its own"),
        (["none.toml", "--base", "x"], "none.toml: no such file"),
        (["plain.toml", "--base", "x"], "plain.toml: it has no [gate] table"),
        (["gate.toml", "--base-python", "no", "--head-python", "no"], "--base-python no: there is no such program"),
        (["gate.toml", "--base", "x"], "git finds no working tree around it"),
        (["gate.toml", "--base", "x", "--allow", "throughput"], "--allow throughput: say which metric may change"),
        (["gate.toml", "--base", "x", "--allow", "throughput=3 MiB"], "throughput: its tolerance is in %"),
        (["gate.toml", "--base", "x", "--max-pairs", "3"], "Invalid value for '--max-pairs'"),
    ],
)
def test_wrong_use_ends_with_2_and_says_the_mend(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "gate.toml").write_text(FILE + GATE)
    (tmp_path / "plain.toml").write_text(FILE)
    done = methodbench("gate", *arguments, folder=tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(FILE + GATE)
    sides = [side(tmp_path / which, which, wait=0.02) for which in ("base", "head")]
    pythons = ("--base-python", str(sides[0].python), "--head-python", str(sides[1].python))
    command = [sys.executable, "-m", "bench", "gate", "gate.toml", *pythons, "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    pairs = tmp_path / "out" / "pairs.jsonl"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not pairs.exists() or len(pairs.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Interrupted. What was measured is kept in out; the same command goes on from there." in said
    assert "Traceback" not in said
    kept = pairs.read_text().splitlines()
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert pairs.read_text().splitlines()[: len(kept)] == kept
    assert len([line for line in pairs.read_text().splitlines() if line]) == 1 + 2 * 6


def test_calibrate_says_what_a_gate_could_tell(tmp_path: Path) -> None:
    from bench.gate.calibrate import calibrate
    from bench.suite.gate import GateTable

    sides = [side(tmp_path / which, which) for which in ("base", "head")]
    table = GateTable(throughput="3%", peak_memory="16 MiB")  # type: ignore[call-arg]
    found = {noise.metric: noise for noise in calibrate(sides[0], sides[1], table, tmp_path, 8, lambda line: None)}
    timed, held = found[THROUGHPUT], found["train_peak_bytes"]
    assert timed.pairs == 8
    assert 0.001 < timed.spread < 0.02  # two workers of .004 each
    assert 0.01 < timed.smallest < 0.03
    assert timed.needed is not None
    assert (held.spread, held.smallest, held.needed) == (0.0, 0.0, 0)
