"""One contract for every registered method: it works, and when its hooks do nothing it ends ``invalid``."""

import pytest

from bench import registry
from bench.method import Method, Modifier, Trainer, Transform
from tests import jobs

# Each method, with a recipe in which it takes part. One that is not here fails the first test.
# Where a hook matters only in another recipe, that follows by the hook's name.
METHODS: dict[str, dict[str, str]] = {
    "accumulate": {"": "full + accumulate(2)"},
    "dynamic_int8": {"": "full >> dynamic_int8"},
    "full": {"": "full"},
    "head": {"": "head"},
    "lora": {"": "lora(r=2)"},
    "magnitude": {"": "magnitude(0.5)", "on_model": "magnitude(0.5) >> full", "on_step": "magnitude(0.5) >> full"},
    "merge": {"": "lora(r=2) >> merge"},
    "mixed_precision": {
        "": 'full + mixed_precision("bf16")',
        "on_gradients": 'full + mixed_precision("fp16")',
        "on_update": 'full + mixed_precision("fp16")',
    },
    "optimizer": {"": 'full(lr=0.05) + optimizer("sgd")'},
    "prune_ffn": {"": "prune_ffn(0.5)"},
}

HOOKS = [
    "on_model",
    "on_optimizer",
    "on_criterion",
    "on_loss",
    "on_gradients",
    "on_update",
    "on_start",
    "on_batch",
    "on_step",
    "between_steps",
    "on_end",
    "apply",
]


def _sabotages():
    for name, cls in registry.methods().items():
        for hook in HOOKS:
            if hook in vars(cls) and name in METHODS:
                recipe = METHODS[name].get(hook, METHODS[name][""])
                yield pytest.param(cls, hook, recipe, id=f"{name}.{hook}")


def nothing(hook):
    """What a hook that does nothing is."""
    return getattr(Method, hook) if hook not in ("apply", "on_model") else lambda self, work: None


def test_every_method_is_under_the_contract():
    assert set(METHODS) == set(registry.methods())


def test_every_method_is_of_one_kind_and_changes_something():
    for name, cls in registry.methods().items():
        assert sum(issubclass(cls, kind) for kind in (Trainer, Modifier, Transform)) == 1, name
        assert any(hook in vars(cls) for hook in HOOKS), f"{name} does nothing"


@pytest.mark.parametrize("name", METHODS)
def test_it_works(name, tiny_bert, tmp_path):
    for text in METHODS[name].values():
        status, reason, records = jobs.run(text, tiny_bert, tmp_path)
        assert status == "ok", reason
        proven = {claim["method"] for record in records for claim in record["evidence"]}
        assert name in proven


@pytest.mark.parametrize(("cls", "hook", "recipe"), list(_sabotages()))
def test_a_hook_that_does_nothing_ends_invalid(cls, hook, recipe, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(cls, hook, nothing(hook))
    status, reason, _ = jobs.run(recipe, tiny_bert, tmp_path)
    assert status == "invalid", f"{status} {reason}"
    assert cls.name in reason
