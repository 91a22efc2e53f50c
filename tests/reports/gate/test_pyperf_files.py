import json
import subprocess
import sys
from dataclasses import replace
from statistics import mean

import pyperf
import pytest

from reports.gate import pyperf_files
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import BASE, LATENCY, MEMORY, QUALITY, SLOWER


def written(verdict, folder):
    for side in ("base", "head"):
        (folder / f"{side}.json").write_text(pyperf_files.suite(verdict, side))
    return [pyperf.BenchmarkSuite.load(str(folder / f"{side}.json")) for side in ("base", "head")]


def compared(folder):
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", "compare_to", "base.json", "head.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rates_become_seconds_and_every_worker_is_a_run(tmp_path):
    base, head = written(verdicts.VERDICT, tmp_path)
    assert base.get_benchmark_names() == head.get_benchmark_names()
    tokens = base.get_benchmark("lora: train_tokens_per_second, seconds/token")
    assert tokens.get_nrun() == 6
    assert tokens.get_values() == pytest.approx([1 / value for value in BASE])
    assert tokens.get_unit() == "second"
    assert base.get_benchmark("lora: latency_1x16").get_values() == LATENCY.base_values
    assert len(base) == 2  # no size, no quality


def test_pyperf_compares_the_files(tmp_path):
    written(verdicts.of(SLOWER, LATENCY), tmp_path)
    text = compared(tmp_path)
    assert "lora: train_tokens_per_second, seconds/token" in text
    slower = mean(1 / value for value in SLOWER.head_values) / mean(1 / value for value in SLOWER.base_values)
    assert f"{slower:.2f}x slower" in text


def test_pyperf_compares_hostile_names(tmp_path):
    base, head = written(verdicts.hostile(), tmp_path)
    assert len(base) == len(head) == 2
    assert 'a|b <x> & "q"' in compared(tmp_path)


def test_counts_are_equal_and_values_above_0(tmp_path):
    uneven = replace(SLOWER, base_values=(100.0, 0.0, 99.0, 98.0), head_values=(95.0, 94.0, 93.0))
    base, head = (suite.get_benchmarks()[0] for suite in written(verdicts.of(uneven), tmp_path))
    assert base.get_values() == pytest.approx([1 / 100, 1 / 99])
    assert head.get_values() == pytest.approx([1 / 95, 1 / 93])
    assert compared(tmp_path)


def test_one_worker_a_side_can_be_compared(tmp_path):
    written(verdicts.of(replace(LATENCY, base_values=(0.01,), head_values=(0.02,))), tmp_path)
    assert "2.00x slower" in compared(tmp_path)


def test_nothing_timed_is_no_file():
    assert pyperf_files.suite(verdicts.of(MEMORY, QUALITY), "base") == ""
    assert pyperf_files.suite(verdicts.of(replace(SLOWER, base_values=(), head_values=())), "head") == ""


def test_thousands_of_checks_are_written():
    assert len(json.loads(pyperf_files.suite(verdicts.many(), "base"))["benchmarks"]) == 2_000
