"""A model of a kind and a transform applied to it, without a process, checkpoint or record."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.machine import machine
from bench.models.registry import open_model
from bench.plan import plan
from bench.plan.plan import Subject
from bench.recipe import recipe
from bench.stage.work import Work
from bench.suite.suite import Budget, of
from bench.tasks.registry import open_task
from bench.tasks.table import DataTable
from bench.testing import jobs

BUDGET = Budget(steps=6, batch_size=16, max_length=16, warmup_steps=2)


def work(text: str, model: Path, folder: Path, *, seed: int = 0, task: DataTable | None = None) -> Work:
    """The work of a recipe's one stage, with nothing done yet."""
    opened = open_task(task or jobs.table(folder), folder)
    auto_class, options = opened.model_options()
    torch.manual_seed(seed)
    loaded, tokenizer = open_model(str(model), folder).load(auto_class, options)
    (stage,) = recipe.parse(text).stages
    return Work(
        model=loaded.eval(),
        tokenizer=tokenizer,
        task=opened,
        stage=stage,
        before=(),
        budget=BUDGET,
        machine=machine.look("cpu", 2),
        seed=seed,
        suite_folder=folder,
    )


def applied(text: str, model: Path, folder: Path, **keys: Any) -> tuple[torch.nn.Module, Work]:
    """A copy of the model as it was, and the work with the transform applied, its evidence seen to hold."""
    done = work(text, model, folder, **keys)
    before, original = done.snapshot(), copy.deepcopy(done.model)
    done.stage.main.apply(done)  # type: ignore[union-attr]
    false = [claim for claim in done.stage.main.evidence(before, done) if not claim.holds]
    assert not false, false
    return original, done


def refuted(
    text: str,
    model: Path,
    folder: Path,
    spoil: Callable[[Work], None] = lambda done: None,
    *,
    proven: str | None = None,
    first: Callable[[Work], None] = lambda done: None,
    **keys: Any,
) -> list[str]:
    """What evidence says does not hold, once `spoil` had its way with the work after the transform was applied.

    The evidence is that of `proven`, the same method with other arguments, where that is given. All biases and norms are
    other than at first, where many are 0 or 1; `first` may change more before.
    """
    done = work(text, model, folder, **keys)
    with torch.no_grad():
        for parameter in done.model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    first(done)
    before = done.snapshot()
    done.stage.main.apply(done)  # type: ignore[union-attr]
    with torch.no_grad():
        spoil(done)
    (stage,) = recipe.parse(proven or text).stages
    return [claim.text for claim in stage.main.evidence(before, done) if not claim.holds]


def logits(model: torch.nn.Module, done: Work) -> torch.Tensor:
    """The logits of `model` on the work's probe batch."""
    with torch.no_grad():
        return done.task.logits(model(**done.probe.inputs), done.probe)


def remade(config: Any, like: Path, folder: Path) -> Path:
    """A directory with a randomly drawn model of another configuration, and the tokenizer of `like`."""
    import transformers

    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto = transformers.AutoModelForCausalLM if hasattr(config, "num_key_value_heads") else transformers.AutoModel
        auto.from_config(config).save_pretrained(folder)
    return folder


def refusals(text: str, model: Path, folder: Path, device: str = "cpu") -> tuple[str, ...]:
    """What planning says against a recipe."""
    suite = of({"model": str(model), "task": jobs.table(folder).model_dump(), "recipes": {"r": text}})
    here = machine.look("cpu", 2)
    subject: Subject = plan.make(suite, folder, here).cells[0].subject
    return plan.refusals(recipe.parse(text), subject, suite, here)
