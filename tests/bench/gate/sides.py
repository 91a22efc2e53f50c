"""Sides of a gate without torch: programs that speak the workers' protocol and take as long as a file says.

`side` makes one. What it does is a table: ``prepared`` is what `prepare` answers (``records`` is a folder to take them from),
``seconds`` the time of one piece of each metric, ``spread`` its noise from worker to worker, ``held`` the bytes, ``steal`` the
share of the CPU that a hypervisor takes, ``wait`` how long a repeat really takes, and ``fail`` what goes wrong: "prepare", "silent", "hello", "case" or "die".
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.gate.case import Case
from bench.gate.pairs import Target
from tests import synthetic
from tests.synthetic import Method

PROGRAM = """\
#!{python}
import json, os, random, sys, time
table = json.load(open({table!r}))
action, fail = sys.argv[4], table.get("fail", "")
print("what a library prints", file=sys.stderr)

def say(**message):
    print(json.dumps(message), flush=True)

if action == "prepare":
    asked = json.loads(sys.stdin.read())
    if fail == "prepare":
        say(error="ValueError: no such recipe")
        sys.exit(1)
    if fail == "silent":
        sys.exit("No module named bench.gate")
    os.makedirs(asked["folder"], exist_ok=True)
    with open(os.path.join(asked["folder"], "records.jsonl"), "w") as stream:
        stream.write(open(os.path.join(table["records"], "records.jsonl")).read())
    json.dump(asked, open(os.path.join(asked["folder"], "asked.json"), "w"))
    say(**table["prepared"])
    sys.exit()

count = os.path.join(sys.argv[5], "workers")
number = int(open(count).read()) + 1 if os.path.exists(count) else 1
open(count, "w").write(str(number))
if number > table.get("works", 10**9):
    fail = table["then"]
noise = random.Random(f"{{table['seed']}} {{number}}")
if fail == "hello":
    say(error="ImportError: no torch")
    sys.exit(1)
say(hello={{name: table["imports"][name] for name in sys.argv[6:]}})
worker = {{metric: seconds * (1 + table["spread"] * noise.gauss(0, 1)) for metric, seconds in table["seconds"].items()}}
trust = {{"contended": True, "reason": "threads waited", "stolen_seconds": table.get("steal", 0.0), "cpu_seconds": 1.0,
         "others_cpu_seconds": 0.0}}
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "case":
        if fail == "case":
            say(error="lora: train: RuntimeError: out of memory")
            continue
        if fail == "die":
            sys.exit(9)
        say(ready=worker)
    elif asked["do"] == "repeat":
        time.sleep(table.get("wait", 0))
        say(repeat={{metric: {{"wall": 2 * worker[metric], "cpu": worker[metric], "cuda": None}} for metric in asked["pieces"]}})
    elif asked["do"] == "profile":
        say(profile=table.get("profile", {{}}))
    else:
        say(end={{"held": table.get("held", {{}}), "trust": trust}})
"""

THROUGHPUT, LATENCY, PEAK = "train_tokens_per_second", "latency_1x16", "train_peak_bytes"

CASES = (
    Case("full: train", "full", "train", (THROUGHPUT,), (PEAK,)),
    Case("full: serve", "full", "serve", (LATENCY,)),
)

MACHINE = {
    "device": "cpu", "device_name": "a CPU", "cpu": "a CPU", "cpu_features": [], "threads": 1, "driver": "", "power_limit": None,
    "mig": "", "gpu_memory": None, "memory": 2**36, "python": "3.11.7", "versions": {"torch": "2.13.0"},
}  # fmt: skip

SUITE = {
    "model": "minilm", "task": "stdlib-topics", "budget": {"steps": 10}, "tune": {"lr": [1e-4, 1e-3]},
    "recipes": {"full": "full"},
}  # fmt: skip


def side(
    folder: Path, which: Any, *, modules: dict[str, str] | None = None, machine: Any = None, **table: Any
) -> Target:
    """A side in `folder`; `table` says what it does, `machine` what differs in its environment."""
    from dataclasses import asdict

    folder.mkdir(parents=True, exist_ok=True)
    records = folder / "stored"
    synthetic.write(synthetic.records({"full": Method("full")}), records)
    prepared = {
        "protocol": 1, "identity": f"{which} {table}", "cases": [asdict(case) for case in CASES], "statuses": {}, "suite": SUITE,
        "modules": {"bench": "bench/__init__.py", **(modules or {})},
        "environment": {"machine": {**MACHINE, **(machine or {})}, "git": None},
    }  # fmt: skip
    given = {
        "records": str(records), "seed": which, "spread": 0.004, "seconds": {THROUGHPUT: 0.01, LATENCY: 0.002},
        "held": {PEAK: 10**8}, "imports": modules or {}, **table,
    }  # fmt: skip
    given["prepared"] = prepared | table.get("prepared", {})
    (folder / "table.json").write_text(json.dumps(given))
    program = folder / "python"
    program.write_text(PROGRAM.format(python=sys.executable, table=str(folder / "table.json")))
    program.chmod(0o755)
    return Target(which, f"a {which}", program, folder, folder / "out" / which, dict(os.environ), SUITE, folder, which)
