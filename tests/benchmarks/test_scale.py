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


def write(folder, nodes):
    """About so many records, a hundred recipes with three seeds on each of many tasks, written task by task."""
    methods = {
        f"recipe {i}": synthetic.Method(f"full(lr={1e-5 * (i + 1)})", 0.6 + 0.15 * (i % 17) / 17) for i in range(100)
    }
    folder.mkdir()
    run = None
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for task in range(max(1, round(nodes / 300))):
            found = synthetic.records(methods, subjects=[("minilm", f"task-{task}")], items=20, steps=10)
            file.writelines(json.dumps({"schema": 1, **node}) + "\n" for node in found.nodes.values())
            run = {**found.runs[0], "cells": [*(run or {"cells": []})["cells"], *found.runs[0]["cells"]]}
        file.write(json.dumps({"schema": 1, **run}) + "\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("scale")
    return {count: write(base / str(count), count) for count in (FEW, MANY)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("format", FORMATS)
def test_a_hundred_times_the_records_take_a_hundred_times_as_long_and_less_than_a_gigabyte(folders, format):
    def measured(count):
        words = [sys.executable, "-c", RENDER, str(folders[count]), format]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds, kilobytes = re.findall(r"[\d.]+", done.stdout)
        return float(seconds), float(kilobytes) / 1e6

    few, _ = min(measured(FEW) for _ in range(3))
    many, gigabytes = measured(MANY)
    print(f"{format}: {few:.2f} s, {many:.1f} s, {many / few / (MANY / FEW):.2f} of linear, {gigabytes:.2f} GB")
    assert many <= 1.3 * MANY / FEW * few
    assert gigabytes < 1
