"""Inference in a process of its own: nothing of training is in its memory or in its allocator."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.measure import clock, latency, trust
from bench.measure.absent import Absent
from bench.measure.peak import Peak
from bench.recipe.facts import stages_in_effect
from bench.recipe.method import Transform
from bench.stage import checkpoint, evidence
from bench.stage.job import Job, Progress
from bench.stage.stage import Stopwatch, seed_everything, uncompressed_model
from bench.tasks.registry import open_task


def run(job: Job, progress: Progress, measured: dict[str, Any] | None = None) -> dict[str, Any]:
    """Load the model that a stage left and measure its inference memory and latency; what was `measured` is filled in.

    Memory comes first, while the model is alone. Then a compressed model and the one that it was made from are timed
    in turns. A measure that fails is absent, with its reason in ``absent``.
    """
    measured = {} if measured is None else measured
    with tempfile.TemporaryDirectory(prefix="methodbench-") as folder:
        _run(job, progress, Path(folder), measured)
    return measured


def load(job: Job, folder: Path) -> tuple[torch.nn.Module, Any, list[Transform]]:
    """The model that a stage left, ready to serve, its tokenizer, and the transforms in effect; `folder` is for their files."""
    transforms = [
        method for stage in stages_in_effect(job.stages) for method in stage.methods if isinstance(method, Transform)
    ]
    seed_everything(job.seed)
    model, tokenizer = checkpoint.load(job.output)
    model.to(job.machine.device).eval()
    for transform in transforms:
        transform.on_serve(model, folder)
    return model, tokenizer, transforms


def _run(job: Job, progress: Progress, folder: Path, measured: dict[str, Any]) -> None:
    seconds = Stopwatch()
    measured |= {"latency": [], "inference": {}, "seconds": seconds.total}
    task = open_task(job.task, job.suite_folder)
    device = torch.device(job.machine.device)
    peak = Peak(device)
    with seconds("load"):
        peak.start()
        model, tokenizer, transforms = load(job, folder)
        loading = peak.stop()
    answer = functools.partial(
        latency.decoder if task.generates else functools.partial(latency.encoder, choices=task.choices),
        model,
        tokenizer,
        device=device,
        process=job.process,
        threads=job.machine.threads,
    )
    absent = Absent(measured)
    if job.measure.memory:
        measured["inference"]["load_peak_bytes"] = loading
        if peak.reason:
            absent.note(peak.reason, "load_peak_bytes", "inference_peak_bytes")
    contention = trust.Contention(device)
    shapes = [(shape, f"latency_{shape[0]}x{shape[1]}") for shape in job.measure.latency]
    with clock.Compiling() as compiling:
        with seconds("latency"), absent("inference_peak_bytes"):
            peak.start()
            for shape, _ in shapes:
                answer(shape, samples=0)
            inferring = peak.stop()
            if job.measure.memory:
                measured["inference"]["peak_bytes"] = inferring
        uncompressed = None
        with seconds("load"), absent(*(f"{name}_speedup" for _, name in shapes)):
            uncompressed = uncompressed_model(job, task)
        with seconds("latency"), contention:
            for number, (shape, name) in enumerate(shapes):
                progress("time", number, len(shapes))
                with absent(name):
                    measured["latency"] += answer(shape, samples=job.measure.latency_samples, uncompressed=uncompressed)
    if compiling.seconds:
        measured["inference"]["compile_seconds"] = compiling.seconds
    claims = [claim for transform in transforms for claim in evidence.claims(transform, "serving_evidence", model)]
    measured["evidence"] = [{"method": name, **asdict(claim)} for name, claim in claims]
    measured["trust"] = {"latency": contention.result()}
