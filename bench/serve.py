"""Inference in a process of its own: nothing of training is in its memory or in its allocator."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import checkpoint, recipe
from bench.execute.base import Job, Progress
from bench.measure import clock, latency, memory, trust
from bench.method import Transform, standing
from bench.stage import Stopwatch, seed_everything
from bench.tasks import open_task


def run(job: Job, progress: Progress) -> dict[str, Any]:
    """Load the model that a stage left and measure its inference memory and latency."""
    with tempfile.TemporaryDirectory(prefix="methodbench-") as folder:
        return _run(job, progress, Path(folder))


def _run(job: Job, progress: Progress, folder: Path) -> dict[str, Any]:
    seconds = Stopwatch()
    stages = standing(recipe.parse(job.recipe).stages)
    transforms = [method for stage in stages for method in stage.methods if isinstance(method, Transform)]
    answer = latency.decoder if open_task(job.task, job.base).kind == "causal_lm" else latency.encoder
    seed_everything(job.seed)
    device = torch.device(job.machine.device)
    peak = memory.Peak(device)
    with seconds("load"):
        model, tokenizer = checkpoint.load(job.output)
        model.to(device).eval()
        for transform in transforms:
            transform.on_serve(model, folder)
    measured: dict[str, Any] = {"latency": []}
    contention = trust.Contention()
    with contention, seconds("latency"), clock.Compiling() as compiling:
        peak.start()
        for number, shape in enumerate(job.measure.latency):
            progress("time", number, len(job.measure.latency))
            measured["latency"] += answer(
                model,
                tokenizer,
                shape,
                device=device,
                samples=job.measure.latency_samples,
                process=job.process,
                threads=job.machine.threads,
            )
        peak_bytes = peak.stop()
    if job.measure.memory and job.measure.latency:
        measured["inference"] = {"peak_bytes": peak_bytes}
    if compiling.seconds:
        measured.setdefault("inference", {})["compile_seconds"] = compiling.seconds
    if job.measure.latency:
        claims = [(transform.name, claim) for transform in transforms for claim in transform.served(model)]
        measured["evidence"] = [{"method": name, **asdict(claim)} for name, claim in claims]
    measured["trust"] = {"latency": contention.result()}
    measured["seconds"] = seconds.total
    return measured
