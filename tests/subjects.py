"""A model and a task that are only names, for testing plans and runs without either."""

from pathlib import Path

import pytest

from bench.machine.machine import Machine
from bench.models.base import Model
from bench.models.structure import Structure
from bench.plan import dividing
from bench.plan import plan as plans
from bench.plan.dividing import Shortage
from bench.plan.plan import Plan
from bench.suite.suite import of
from bench.tasks.base import Task

HERE = Machine(
    device="cpu", device_name="cpu", gpus=0, cpu="a cpu", cpu_features=(), cores=2, threads=2, memory=2**33,
    system="Linux", python="3.11", versions=(("torch", "2.13.0"), ("peft", "0.21"), ("methodbench", "0")),
)  # fmt: skip


class NoModel(Model):
    name = "no-model"

    def problems(self):
        return []

    def fingerprint(self):
        return "model"

    def model_type(self):
        return "bert"

    def examine(self, auto_class, options):
        return Structure()

    def load(self, auto_class, options):
        raise AssertionError


class NoTask(Task):
    name = "no-task"
    kind = "classification"
    peft_task_type = "SEQ_CLS"
    reads_texts = predicts_classes = labels_texts = True

    def fingerprint(self):
        return "task"

    def model_options(self):
        return "AutoModel", {}

    def batches(self):
        raise AssertionError

    criterion = logits = evaluate = batches


def make_plan(
    monkeypatch: pytest.MonkeyPatch,
    recipes: dict[str, str],
    machine: Machine = HERE,
    shortage: Shortage = dividing.shortage,
    **keys: object,
) -> Plan:
    monkeypatch.setattr(plans, "open_model", lambda spec, base, **named: NoModel())
    # A model that is only a name needs no process of its own to be examined in.
    monkeypatch.setattr(plans.structure, "of", lambda model, spec, base, *loaded: model.examine(*loaded))
    monkeypatch.setattr(plans, "open_task", lambda spec, base: NoTask())
    suite = of({"model": "no-model", "task": "no-task", "recipes": recipes, **keys})
    return plans.make(suite, Path(), machine, shortage)
