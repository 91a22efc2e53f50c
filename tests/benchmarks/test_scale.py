"""How time and memory grow with the number of records: as ratios, for absolute times are a machine's own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import synthetic

FEW, MANY = 1_000, 100_000
FORMATS = ("md", "json", "csv", "table")

RENDER = """
import os, re, sys, time, pathlib
import reports, reports.markdown, reports.export, reports.table, scipy.stats
began = time.process_time()
with open(os.devnull, "w", encoding="utf-8") as out:
    out.writelines(reports.pieces(sys.argv[1], sys.argv[2]))
spent = time.process_time() - began
# Not ru_maxrss, which begins with what the parent had at the fork.
print(spent, re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


def write(folder, nodes, recipes=100):
    """So many records, of `recipes` with two seeds on each of as many tasks as it takes, written task by task."""
    levels = [0.6 + 0.15 * (i % 17) / 17 for i in range(recipes)]
    methods = {f"recipe {i}": synthetic.Method(f"full(lr={1e-7 * (i + 1)})", level) for i, level in enumerate(levels)}
    folder.mkdir()
    cells = []
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for task in range(nodes // (2 * recipes)):
            found = synthetic.records(methods, (0, 1), [("minilm", f"task-{task}")], items=20, steps=10)
            file.writelines(json.dumps({"schema": 1, **node}) + "\n" for node in found.nodes.values())
            cells += found.runs[0]["cells"]
        file.write(json.dumps({"schema": 1, **found.runs[0], "cells": cells}) + "\n")
    return folder


def check_growth(few, many, times, format, repeats=1):
    """That `many` takes no more than `times` as long as `few`, but for a third, and less than a gigabyte. The least of
    `repeats` counts: other programs only add."""

    def measured(folder):
        words = [sys.executable, "-c", RENDER, str(folder), format]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds, kilobytes = re.findall(r"[\d.]+", done.stdout)
        return float(seconds), float(kilobytes) / 1e6

    short, _ = min(measured(few) for _ in range(3))
    long, gigabytes = min(measured(many) for _ in range(repeats))
    print(f"{format}: {short:.2f} s, {long:.1f} s, {long / short / times:.2f} of linear, {gigabytes:.2f} GB")
    assert long <= 1.3 * times * short
    assert gigabytes < 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("scale")
    return {count: write(base / str(count), count) for count in (FEW, MANY)}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    base = tmp_path_factory.mktemp("wide")
    return {count: write(base / str(count), 2 * count, recipes=count) for count in (500, 5_000)}


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc"),
]


@pytest.mark.parametrize("format", FORMATS)
def test_a_hundred_times_the_records_take_a_hundred_times_as_long(folders, format):
    check_growth(folders[FEW], folders[MANY], MANY / FEW, format)


@pytest.mark.parametrize("format", FORMATS)
def test_ten_times_the_recipes_of_one_comparison_take_ten_times_as_long(wide, format):
    check_growth(wide[500], wide[5_000], 10, format, repeats=3)
