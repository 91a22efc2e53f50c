"""Inference in a process of its own: nothing of training is in its memory or in its allocator."""

from __future__ import annotations

from typing import Any

import torch

from bench import checkpoint
from bench.execute.base import Job, Progress
from bench.measure import latency, memory, trust
from bench.stage import Stopwatch, seed_everything


def run(job: Job, progress: Progress) -> dict[str, Any]:
    """Load the model that a stage left and measure its inference memory and latency."""
    seconds = Stopwatch()
    seed_everything(job.seed)
    device = torch.device(job.machine.device)
    peak = memory.Peak(device)
    with seconds("load"):
        model, tokenizer = checkpoint.load(job.output)
        model.to(device).eval()
    measured: dict[str, Any] = {"latency": []}
    contention = trust.Contention()
    with contention, seconds("latency"):
        peak.start()
        for number, shape in enumerate(job.measure.latency):
            progress("time", number, len(job.measure.latency))
            measured["latency"] += latency.encoder(
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
    measured["trust"] = {"latency": contention.result()}
    measured["seconds"] = seconds.total
    return measured
