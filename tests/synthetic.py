"""Records as a run would write them, made up: for the tests of comparisons and reports, and for looking at
a report.

Deterministic. Stages share nodes exactly as the plan does.
"""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

from bench.record.schema import Reference


@dataclass
class Records:
    nodes: dict = field(default_factory=dict)
    runs: list = field(default_factory=list)
    references: dict = field(default_factory=dict)
    ends: list = field(default_factory=list)
    turns: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)


@dataclass(frozen=True)
class Method:
    """What a recipe's last stage does to the figures, as factors on `full`'s."""

    recipe: str
    accuracy: float = 0.75
    step: float = 1.0
    memory: float = 1.0
    latency: float = 1.0
    size: float = 1.0
    trainable: float = 1.0
    status: str = "ok"
    reason: str = ""
    log: str = ""
    refused: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None  # those that end with `status`; all otherwise


OOM = """Traceback (most recent call last):
  File "bench/stage/stage.py", line 61, in run
    work, before, measured = _train(Training(**common), job, peak, seconds)
  File "bench/stage/loop.py", line 114, in run
    loss = gradients(batch, _ONE)
MemoryError: process used 4.1 GB of the 4.0 GB it may use"""

METHODS = {
    "full": Method("full"),
    "head only": Method("head", 0.50, 0.35, 0.33, 1.0, 1.0, 0.0002),
    "lora r=8": Method("lora(r=8)", 0.745, 0.97, 0.43, 1.06, 0.012, 0.006),
    "lora r=64": Method("lora(r=64)", 0.748, 1.02, 0.52, 1.07, 0.09, 0.05),
    "ia3": Method("ia3", 0.66, 0.93, 0.42, 1.03, 0.002, 0.0008),
    "bitfit": Method("bitfit", 0.69, 0.85, 0.40, 1.0, 0.006, 0.003),
    "bf16 full": Method('full + mixed_precision("bf16")', 0.749, 0.52, 0.8),
    "full, accumulated": Method("full + accumulate(4)", 0.751, 1.3, 0.62),
    "int8": Method("full >> int8", 0.7496, latency=1.72, size=0.645),
    "nf4": Method("full >> nf4", 0.728, latency=1.95, size=0.58),
    "half FFN": Method("full >> prune_ffn(0.5) >> full(share=0.3)", 0.71, 1.0, 1.0, 0.71, 0.8),
    "qlora": Method("nf4 >> lora(r=16)", 0.735, 1.9, 0.31, 1.93, 0.59, 0.012),
    "adamw, lr too high": Method(
        "full(lr=0.1)",
        status="diverged",
        reason="the loss is nan at step 17 of 60",
        log="step 17: loss nan",
        seeds=(1,),
    ),
    "ensemble of 8": Method("full + ensemble(8)", status="oom", reason="needed more than 4.0 GB", log=OOM),
    "two GPUs": Method(
        "full + data_parallel(2)",
        refused=("data_parallel: 2 processes on cuda need 2 GPUs, this machine has 0",),
    ),
}

ENVIRONMENT = {
    "machine": {
        "device": "cpu",
        "device_name": "Xeon 8481C",
        "gpus": 0,
        "cpu": "Intel Xeon Platinum 8481C",
        "cpu_features": ["amx_bf16", "avx512_bf16", "avx512_vnni"],
        "cores": 4,
        "threads": 4,
        "memory": 16_000_000_000,
        "system": "Linux 6.1",
        "python": "3.11.7",
        "versions": {"torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": "0.21.2"},
    },
    "git": {"commit": "ad80456", "dirty": False},
}


DATA = {
    "read": 2900, "equal": 60, "near_equal": 12, "conflicting": 8, "train": 1974, "validation": 286, "test": 560, "respelled": 0,
}  # fmt: skip


def records(
    methods=METHODS,
    seeds=(0, 1, 2),
    subjects=(("minilm", "stdlib-topics"),),
    *,
    title="Which method for topics?",
    items=560,
    steps=60,
    noise=0.01,
    contended=(),
):
    """Records of one run of `methods`, given by name; `contended` names those whose timings are marked."""
    found = Records()
    cells = []
    for model, task in subjects:
        for seed in seeds:
            for name, method in methods.items():
                path = _path(found, name, method, model, task, seed, items, steps, noise, name in contended)
                cells.append(
                    {
                        "name": name,
                        "recipe": method.recipe,
                        "model": model,
                        "task": task,
                        "seed": seed,
                        "path": path,
                        "refused": list(method.refused),
                    }
                )
    found.runs.append(
        {
            "kind": "run",
            "run": "r1",
            "title": title,
            "baseline": next(iter(methods)),
            "seeds": list(seeds),
            "recipes": {name: method.recipe for name, method in methods.items()},
            "cells": cells,
            "data": {task: DATA for _, task in subjects},
            "environment": ENVIRONMENT,
            "started": "2026-11-22T20:00:00+00:00",
            "version": "0.1.0",
        }
    )
    return found


def referenced(**options):
    """Records of a run whose qualities are seen beside chance and the untrained model."""
    found = records(**options)
    (run,) = found.runs
    run["references"] = [f"untrained {seed}" for seed in run["seeds"]]
    for id_, seed in zip(run["references"], run["seeds"], strict=True):
        scored = {"metrics": {"accuracy": 0.1 + seed / 50, "macro_f1": 0.05, "kl_divergence": None}}
        chance = {"about": "the most frequent class", "metrics": {"accuracy": 0.1234, "macro_f1": 0.02}}
        about = {"id": id_, "model": "minilm", "task": "stdlib-topics", "seed": seed, "status": "ok"}
        found.references[id_] = Reference.of({"kind": "reference", **about, "untrained": scored, "chance": chance})
    return found


def divided(seeds=(0, 1)):
    """Records of a training in one process, and of one that two share, of which the second holds less."""
    found = records({"full": Method("full"), "pipeline": Method("full + pipeline_parallel(2, 4)")}, seeds)
    for node in found.nodes.values():
        if "pipeline" in node["stage"]:
            sent = {"communicated_bytes": 4096}
            node["training"]["ranks"] = [
                {
                    **sent,
                    "step_seconds": [0.1] * 60,
                    "weight_bytes": size,
                    "gradient_bytes": size,
                    "peak_bytes": 9 * size,
                }
                for size in (3_000_000, 2_000_000)
            ]
            node["training"] |= sent
    return found


def compressed(gains, **options):
    """Records of ways to compress one trained model: recipes with how much faster than that model they answer."""
    methods = {"full": Method("full")} | {name: Method(f"full >> {name}", 0.7) for name in gains}
    found = records(methods, **options)
    for node in found.nodes.values():
        if node["depth"]:
            for entry in node["latency"]:
                values = [seconds * gains[node["stage"]] for seconds in entry["values"]]
                entry["uncompressed"] = {"loops": 1, "warmups": [], "values": values}
            node["quality"]["metrics"] |= {"agreement": 0.96, "kl_divergence": 0.0123, "won": 3, "lost": 9}
            node["transform"] = {"peak_bytes": 300_000_000}
    return found


def sized(nodes, items=200, **options):
    """About `nodes` records, in matrices of recipes × seeds × tasks as large sweeps have them."""
    methods = {f"recipe {i}": Method(f"full(lr={1e-5 * (i + 1)})", 0.6 + 0.15 * (i % 17) / 17) for i in range(100)}
    tasks = max(1, round(nodes / 300))
    return records(methods, subjects=[("minilm", f"task-{i}") for i in range(tasks)], items=items, **options)


def write(found, folder):
    """The records as JSON lines."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"schema": 1, **line} for line in (*found.runs, *found.nodes.values(), *found.ends)]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def _path(found, name, method, model, task, seed, items, steps, noise, contended):
    stages = method.recipe.split(" >> ")
    ids = []
    for depth, stage in enumerate(stages):
        prefix = " >> ".join(stages[: depth + 1])
        id_ = f"{model}/{task}/{seed}/{prefix}"
        last = depth == len(stages) - 1
        as_method = method if last else next((m for m in METHODS.values() if m.recipe == prefix), Method(prefix))
        parent = ids[-1] if ids else None
        ids.append(id_)
        if method.refused:
            if last:
                found.nodes[id_] = _base(id_, parent, as_method, stage, depth, model, task, seed) | {
                    "status": "refused",
                    "reason": "; ".join(method.refused),
                }
            continue
        if id_ not in found.nodes:
            found.nodes[id_] = _node(
                id_, parent, as_method, stage, depth, model, task, seed, items, steps, noise, contended
            )
    return ids


def _base(id_, parent, method, stage, depth, model, task, seed):
    return {
        "kind": "node",
        "id": id_,
        "parent": parent,
        "run": "r1",
        "status": "ok",
        "reason": "",
        "log": "",
        "recipe": method.recipe,
        "stage": stage,
        "depth": depth,
        "model": model,
        "task": task,
        "seed": seed,
        "started": "2026-11-22T20:01:00+00:00",
        "environment": ENVIRONMENT,
    }


def _node(id_, parent, method, stage, depth, model, task, seed, items, steps, noise, contended):
    draw = random.Random(f"{id_}")
    node = _base(id_, parent, method, stage, depth, model, task, seed)
    base = stage.split("(")[0].split(" ")[0]
    trains = base in {"full", "head", "lora", "ia3", "bitfit"}
    trust = {
        "contended": contended,
        "reason": "CPU time was 61 % of wall time" if contended else "",
        "load": 1.2,
    }
    if trains:
        count = max(1, round(steps * (0.3 if "share" in stage else 1)))
        level = 2.3 - 2 * (method.accuracy - 0.1)
        node["training"] = {
            "step_seconds": [0.36 * method.step * math.exp(draw.gauss(0, noise)) for _ in range(count)],
            "tokens": [600 + draw.randrange(100) for _ in range(count)],
            "samples": [16] * count,
            "losses": [level + 1.3 * math.exp(-i / (count / 4)) + draw.gauss(0, 0.06) for i in range(count)],
            "warmup": min(3, count // 2),
            "peak_bytes": int(780e6 * method.memory * math.exp(draw.gauss(0, noise))),
            "gradient_bytes": int(90.8e6 * method.trainable),
            "optimizer_bytes": int(181.6e6 * method.trainable),
            "activation_bytes": 210_000_000,
            "step_flops": 130e9 * (0.33 + 0.67 * min(1.0, method.step)),
            "trainable": int(22.7e6 * method.trainable),
            "data_seconds": 0.2,
        }
    else:
        node["training"] = None
    broken = method.status != "ok" and (method.seeds is None or seed in method.seeds)
    if broken:
        node |= {"status": method.status, "reason": method.reason, "log": method.log}
        if trains and method.status == "diverged":
            node["training"]["losses"] = [2.3 * 1.4**i for i in range(16)] + [math.nan]
        else:
            node["training"] = None
        return node | {"trust": {"training": trust}, "evidence": []}
    # The same items are hard for every recipe, and training noise moves some more.
    hard = random.Random(f"{model}/{task}")
    noise_of_seed = random.Random(f"{id_}/items")
    bias = noise_of_seed.gauss(0, 0.006)
    correct = [int(hard.random() + noise_of_seed.gauss(0, 0.05) < method.accuracy + bias) for _ in range(items)]
    accuracy = sum(correct) / items if items else 0.0
    shapes = [(1, 16, 0.0107), (8, 64, 0.078)]
    return node | {
        "evidence": [
            {
                "method": base,
                "text": "the trained weights changed",
                "holds": True,
                "seen": "101 of 103 tensors differ",
            },
            {
                "method": base,
                "text": "every other weight is bit-identical",
                "holds": True,
                "seen": "2 of 2 are the same",
            },
        ],
        "weight_bytes": int(90.8e6 * max(method.size, 0.55)),
        "parameters": {"total": 22_713_216, "nonzero": 22_713_000},
        "size": {"bytes": int(90.9e6 * method.size), "files": 3},
        "inference": {"peak_bytes": int(190e6 * max(method.size, 0.6) * math.exp(draw.gauss(0, noise)))},
        "latency": [
            {
                "batch": batch,
                "length": length,
                "clock": clock,
                "threads": 4 if clock == "wall" else 1,
                "unit": "s",
                "warmups": [seconds * 1.4] * 3,
                "values": [seconds * method.latency * math.exp(draw.gauss(0, noise)) for _ in range(15)],
                "process": 0,
            }
            for batch, length, seconds in shapes
            for clock in ("wall", "cpu")
        ],
        "quality": {
            "metrics": {"accuracy": accuracy, "macro_f1": accuracy - 0.02},
            "predictions": [0] * items,
            "correct": correct,
        },
        "trust": {"training": trust if trains else None, "latency": trust},
        "seconds": {"total": 30.0, "train": 22.0},
    }
