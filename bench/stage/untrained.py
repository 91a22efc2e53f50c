"""What quality is to be seen beside: the model before any training, and a guess that reads no text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.models import structure
from bench.stage.job import Job, Progress
from bench.stage.stage import seed_everything
from bench.tasks.registry import open_task


def run(job: Job, progress: Progress, measured: dict[str, Any]) -> None:
    """Score the model as a first stage finds it, a new head drawn by the seed; `measured` goes into the record."""
    source, task = job.source(), open_task(job.task, job.suite_folder)
    structure.of(source, job.model, job.suite_folder, *task.model_options())
    progress("load", 0, 1)
    seed_everything(job.seed)
    model, tokenizer = source.load(*task.model_options())
    # A guess is known of the test split alone.
    if job.measure.split == "test" and (chance := task.chance(tokenizer, job.budget.max_length)):
        measured["chance"] = asdict(chance)
    progress("evaluate", 0, 1)
    quality = task.evaluate(
        model.to(job.machine.device).eval(),
        tokenizer,
        batch_size=job.budget.eval_batch_size,
        max_length=job.budget.max_length,
        split=job.measure.split,
    )
    measured["untrained"] = asdict(quality)
