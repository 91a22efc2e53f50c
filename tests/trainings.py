"""A training that is put together but not run, on a tiny model."""

from pathlib import Path
from typing import Any

import torch

from bench.machine import machine
from bench.models.registry import open_model
from bench.recipe import recipe
from bench.stage.loop import Training
from bench.suite.suite import Budget
from bench.tasks.registry import open_task
from bench.tasks.table import DataTable
from bench.testing import jobs
from tests.versions import skip_broken

BUDGET = Budget(steps=6, batch_size=16, max_length=16, warmup_steps=2)


def make(
    text: str, model: Path, folder: Path, *, seed: int = 0, task: DataTable | None = None, **budget: Any
) -> Training:
    """The training of a recipe's one stage."""
    opened = open_task(task or jobs.table(folder), folder)
    skip_broken(text, opened.kind)
    auto_class, options = opened.model_options()
    torch.manual_seed(seed)
    loaded, tokenizer = open_model(str(model), folder).load(auto_class, options)
    (stage,) = recipe.parse(text).stages
    return Training(
        model=loaded,
        tokenizer=tokenizer,
        task=opened,
        stage=stage,
        before=(),
        budget=BUDGET.model_copy(update=budget),
        machine=machine.look("cpu", 2),
        seed=seed,
    )


def prepared(text: str, model: Path, folder: Path, **keys: Any) -> Training:
    """The same, put together."""
    training = make(text, model, folder, **keys)
    training.prepare()
    return training


def no_dropout(training: Training) -> Training:
    """The same, with every dropout layer off."""
    for module in training.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return training


def gradient(training: Training, *, seed: int = 0) -> torch.Tensor:
    """The probe batch's gradient as one vector; the parameters have none afterwards."""
    torch.manual_seed(seed)
    training.optimizer.zero_grad()
    training.gradients(training.probe, 1.0)
    flat = torch.cat([p.grad.flatten() for p in training.parameters if p.grad is not None])
    training.optimizer.zero_grad()
    return flat


def claims(training: Training, *, trainer: bool = False) -> dict[str, tuple[bool, str]]:
    """What the modifiers prove of a training that has run, by the claim's text; with `trainer`, what it does too.

    The snapshot is of the end, so a trainer's claims that weights moved do not hold.
    """
    methods = training.stage.methods if trainer else training.stage.modifiers
    before = training.snapshot()
    with torch.compiler.set_stance("force_eager"):
        found = [claim for method in methods for claim in method.evidence(before, training)]
    return {claim.text: (claim.holds, claim.seen) for claim in found}
