"""Results of PEFT's method comparison: read, and ours written in that form.

Source: https://github.com/huggingface/peft/tree/main/method_comparison, ``MetaMathQA/utils.py`` (``log_results``) and
``processing.py``, at 5d602fd of August 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.compare.compare import Alone, Comparisons
from bench.machine import disk
from bench.machine.output import visible
from bench.record.reading import read as read_records
from bench.record.schema import Node
from reports.exchange.base import Foreign, Part, Value

FORM = "PEFT's method comparison (run_info, train_info, meta_info)"
MEND = "this version reads the form that PEFT's method comparison had from 2025 to August 2026"

_DUMMY = 99_999_999
"""The ``file_size`` that stands there where it could not be measured."""

_TYPES = {
    "adalora": "ADALORA", "ia3": "IA3", "lora": "LORA", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING",
}  # fmt: skip
"""Our methods that are PEFT's, by what PEFT calls their type."""


# -- theirs ------------------------------------------------------------------------------------------------


def fits(found: Mapping[str, Any]) -> bool:
    """Whether two of its three parts are there."""
    return len({"run_info", "train_info", "meta_info"} & found.keys()) > 1


def read(found: Part) -> list[Foreign]:
    """The one experiment of a file.

    Raises:
        RecordError: it has another shape.
    """
    run, train, meta = found.part("run_info"), found.part("train_info"), found.maybe("meta_info")
    metrics = train.found.get("metrics")
    if not isinstance(metrics, list) or not all(isinstance(each, dict) for each in metrics):
        raise train.wrong("metrics", "is no list of objects")
    if not (name := run.text("experiment_name")):
        raise run.wrong("experiment_name", "is missing")
    status, packages = train.text("status"), meta.maybe("package_info")
    last = Part(found.file, metrics[-1] if metrics else {}, MEND, "train_info.metrics[-1]")
    return [
        Foreign(
            file=found.file.name,
            tool="PEFT method comparison",
            version=packages.text("peft-version"),
            date=run.text("created_at")[:10],
            name=name if status == "success" else f"{name} ({status or 'no status'})",
            model=run.maybe("train_config").text("model_id"),
            task=", ".join(
                visible(name) for name, of in meta.maybe("dataset_info").found.items() if isinstance(of, dict)
            ),
            machine=meta.maybe("system_info").text("accelerator"),
            values=tuple(_values(run, train, last)),
        )
    ]


def _values(run: Part, train: Part, last: Part) -> Iterator[Value]:
    # Of text the loss is a cross entropy; of images it is not.
    loss = "nats" if "test accuracy" in last else "squares"
    yield from last.values(
        ("test accuracy", "fraction", "accuracy"), ("test dino_similarity", "cosine"), ("forgetting", "nats", "forgetting"),
        ("drift", "fraction"), ("train loss", loss), ("train samples", "count"), ("train total tokens", "count"),
    )  # fmt: skip
    # Until the middle of 2025 the memory was called by the one kind of accelerator that there was.
    memory = [
        f"{kind}_memory_{what}" for kind in ("accelerator", "cuda") for what in ("max", "reserved_avg", "reserved_99th")
    ]
    yield from train.values(*((name, "B") for name in memory), ("train_time", "s"))
    if train.number("file_size") != _DUMMY:
        yield from train.values(("file_size", "B"))
    yield from train.values(
        ("num_trainable_params", "count", "trainable_parameters"), ("num_total_params", "count", "parameters")
    )
    yield from run.values(("total_time", "s"))


# -- ours --------------------------------------------------------------------------------------------------


def write(folder: Path) -> list[Path]:
    """Write each cell of the results in `folder` that ran to its end, or began to, as a file in its folder ``peft``.

    What their form has no place for is left out; what we do not measure as they do is null.

    Raises:
        RecordError: the records cannot be read. OSError: a file cannot be written.
    """
    target, written = folder / "peft", []
    target.mkdir(exist_ok=True)
    for each in Comparisons(read_records(folder)).alone():
        if each.row.status in ("not run", "refused"):
            continue
        found = _result(each)
        several = "--".join([each.cell.model, each.cell.task, found["run_info"]["experiment_name"]])
        file = target / f"{re.sub('[^A-Za-z0-9._=-]+', '-', several.replace('/', '--'))[:200]}.json"
        with disk.atomic(file) as half:
            half.write_text(json.dumps(found, indent=2, allow_nan=False), encoding="utf-8")
        written.append(file)
    return written


def _result(each: Alone) -> dict[str, Any]:
    cell, row, path = each.cell, each.row, each.path
    value = {name: figure.value for name, figure in row.figures.items()}
    count = {name: round(found) for name, found in value.items()}
    budget = each.path[-1].budget if isinstance(each.path[-1].budget, Mapping) else {}
    trained = [node.training for node in path if node.training]
    environment = path[-1].environment
    machine = environment and environment.machine
    versions = dict((machine and machine.versions) or {})
    named = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
    seconds = [node.seconds.get("total") for node in path if isinstance(node.seconds, Mapping)]
    timed = [each for each in seconds if isinstance(each, int | float)]
    return {
        "run_info": {
            "created_at": path[0].started,
            "total_time": sum(timed) if len(timed) == len(path) else None,
            "experiment_name": f"{_method(cell.recipe)}/{cell.name}-seed{cell.seed}",
            "peft_branch": None,
            "peft_worktree_is_dirty": None,
            "train_config": {
                "model_id": cell.model,
                "dtype": None,
                "max_seq_length": budget.get("max_length"),
                "batch_size": budget.get("batch_size"),
                "batch_size_eval": budget.get("eval_batch_size"),
                "max_steps": sum(len(training.step_seconds) for training in trained),
                "eval_steps": None,
                "compile": None,
                "use_gc": None,
                "query_template": None,
                "seed": cell.seed,
                "grad_norm_clip": None,
                "optimizer_type": None,
                "optimizer_kwargs": None,
                "lr_scheduler": None,
                "use_amp": None,
                "autocast_adapter_dtype": None,
                "generation_kwargs": None,
                "attn_implementation": None,
                "init_kv_cache_prefix": None,
            },
            "peft_config": _peft_config(each),
            "error_msg": row.endings[0].reason,
        },
        "train_info": {
            # Of what the allocator reserved, where we measure what was allocated.
            "accelerator_memory_reserved_avg": None,
            "accelerator_memory_max": None,
            "accelerator_memory_reserved_99th": None,
            "train_time": value.get("train_seconds"),
            "file_size": _file_size(path[-1]),
            "num_trainable_params": count.get("trainable_parameters"),
            "num_total_params": count.get("parameters"),
            "status": "success" if row.ok else "canceled",  # so they call an end by an error
            "metrics": [
                {
                    "step": sum(len(training.step_seconds) for training in trained),
                    "test accuracy": value.get("accuracy"),
                    "train loss": value.get("final_loss"),
                    "train samples": round(sum(sum(training.samples) for training in trained)),
                    "train total tokens": round(sum(sum(training.tokens) for training in trained)),
                    "forgetting": value.get("forgetting"),
                }
            ],
        },
        "meta_info": {
            "model_info": {"sha": path[0].model_fingerprint, "created_at": None},
            "dataset_info": {cell.task: {"sha": path[0].task_fingerprint, "created_at": None}},
            "package_info": {
                key: found
                for name in named
                for key, found in ((f"{name}-version", versions.get(name)), (f"{name}-commit-hash", None))
            },
            "system_info": {
                "system": machine and machine.system,
                "release": None,
                "version": None,
                "machine": None,
                "processor": machine and machine.cpu,
                "accelerator": machine.device_name if machine and machine.device != "cpu" else None,
            },
            "pytorch_info": None,
        },
    }


def _method(text: str) -> str:
    """The name of a recipe's first method."""
    return re.split(r"\W", text, maxsplit=1)[0]


def _peft_config(each: Alone) -> dict[str, Any] | None:
    """None of a full fine-tuning, as they have it. Else a recipe that is no method of PEFT's alone is a type of its own, so that no
    table takes it for one."""
    text = each.cell.recipe
    alone = not {">>", "+"} & set(text.split())
    if alone and _method(text) == "full":
        return None
    named = re.match(r"""peft\(["'](\w+)["']""", text)  # any of PEFT's by its own name
    kind = (named[1] if named else _TYPES.get(_method(text))) if alone else None
    return {"peft_type": kind or text, "recipe": text, "arguments": list(each.row.arguments)}


def _file_size(node: Node) -> int | None:
    """Bytes of the weights' files alone, as they count."""
    files = node.size and node.size.files
    if not isinstance(files, Mapping):
        return None
    weights = [size for name, size in files.items() if str(name).endswith(".safetensors") and isinstance(size, int)]
    return sum(weights) if weights else None
