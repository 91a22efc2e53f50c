"""Prefix tuning against attention computed by hand, and against the base model with the same keys and values."""

import math
from dataclasses import replace

import pytest
import torch

from bench.execute.worker import attempt
from bench.machine import machine
from bench.models import signature
from bench.models.architecture import attention, blocks
from bench.plan import plan
from bench.stage import evidence
from bench.suite.suite import of
from bench.testing import jobs
from methods import _peft
from tests.trainings import make, no_dropout, prepared
from tests.versions import PREFIX_ON_CLASSIFIERS

WIDTH = {"tiny-bert": 32, "tiny-llama": 16}  # of keys and values
HEAD = {"tiny-bert": 3 * 32 + 3, "tiny-llama": 3 * 32}


def test_as_many_weights_as_keys_and_values(model, tmp_path):
    training = prepared("prefix(5)", model, tmp_path)
    count = 5 * 2 * 2 * WIDTH[model.name]
    assert _peft.virtual_tokens(training.model).numel() == count
    assert sum(p.numel() for p in training.parameters) == count + HEAD[model.name]


def test_attention_goes_over_the_prefix_too(tiny_bert, tmp_path):
    training = no_dropout(prepared("prefix(5)", tiny_bert, tmp_path))
    table = torch.nn.init.normal_(_peft.virtual_tokens(training.model).data)
    training.model.eval()
    seen = []
    for part in attention(training.model):
        part.module.register_forward_hook(
            lambda module, args, kwargs, out: seen.append(((args or (kwargs["hidden_states"],))[0], out[0])),
            with_kwargs=True,
        )
    with torch.no_grad():
        training.model(**training.probe.inputs)
    mask = training.probe.inputs["attention_mask"]
    real = torch.cat([torch.ones(len(mask), 5), mask], 1).bool()[:, None, None]
    learned = table.view(5, 2, 2, 2, 16)  # token, block, key or value, head, width of a head
    assert len(seen) == 2
    for block, ((hidden, out), part) in enumerate(zip(seen, attention(training.model), strict=True)):
        query, key, value = (
            layer(hidden).unflatten(-1, (2, 16)).transpose(1, 2) for layer in (part.query, part.key, part.value)
        )
        key, value = (
            torch.cat([learned[:, block, which].transpose(0, 1).expand(len(mask), -1, -1, -1), own], 2)
            for which, own in enumerate([key, value])
        )
        weights = (query @ key.mT / math.sqrt(16)).masked_fill(~real, -math.inf).softmax(-1)
        wanted = (weights @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(out.view_as(wanted), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", [jobs.table, jobs.prose])
def test_outputs_are_those_of_the_base_with_the_same_cache(tiny_llama, tmp_path, task):
    from transformers import DynamicCache

    training = no_dropout(prepared("prefix(5)", tiny_llama, tmp_path, task=task(tmp_path)))
    table = torch.nn.init.normal_(_peft.virtual_tokens(training.model).data)
    training.model.eval()
    inputs = training.probe.inputs
    items = len(inputs["input_ids"])
    learned = table.view(5, 2, 2, 2, 8).permute(1, 2, 3, 0, 4)  # block, key or value, head, token, width of a head
    cache = DynamicCache()
    for block, (key, value) in enumerate(learned):
        cache.update(key.expand(items, -1, -1, -1), value.expand(items, -1, -1, -1), block)
    mask = torch.cat([torch.ones(items, 5, dtype=torch.long), inputs["attention_mask"]], 1)
    with torch.no_grad():
        ours = training.model(**inputs).logits
        base = training.model.get_base_model()
        given = {signature.cache_name(base): cache}
        theirs = base(input_ids=inputs["input_ids"], attention_mask=mask, **given).logits
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("wrong", "task"),
    [("a base weight", jobs.table), ("a base weight", jobs.prose), ("a prefix that nothing attends to", jobs.table)],
)
def test_what_is_wrong_is_found_out(model, tmp_path, wrong, task):
    if model.name == "tiny-bert" and task is jobs.prose:
        pytest.skip("an encoder does not write")
    training = make("prefix(3)", model, tmp_path, task=task(tmp_path))
    before = training.snapshot()
    training.prepare()
    training.began = evidence.marks(training.model)
    training.run()
    assert not [claim for claim in training.trainer.evidence(before, training) if not claim.holds]
    vars(training).pop("after")
    if wrong == "a base weight":
        with torch.no_grad():
            next(blocks(training.model)[0].parameters())[0] += 1
    else:
        training.forward = training.model.get_base_model()
    false = {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds}
    assert (
        "the base's weights are bit-identical"
        if wrong == "a base weight"
        else "each block's keys and values depend on its prefix"
    ) in false


def refused(model, task, folder, here):
    keys = {"model": str(model), "task": task(folder).model_dump(exclude_unset=True), "recipes": {"x": "prefix(3)"}}
    (cell,) = plan.make(of(keys), folder, here).cells
    return cell.refused


@pytest.mark.parametrize(
    ("transformers", "peft", "works"),
    [("5.23.0", "0.21.2", True), ("5.24.0", "0.21.2", False), ("5.30.1", "0.21", False), ("5.24.0", "0.21.3", True)],
)
def test_versions_that_do_not_know_each_others_names_are_refused_on_classifiers(
    model, tmp_path, transformers, peft, works
):
    here = machine.look("cpu", 2)
    here = replace(here, versions=tuple((dict(here.versions) | {"transformers": transformers, "peft": peft}).items()))
    reasons = refused(model, jobs.table, tmp_path, here)
    assert len(reasons) == (0 if works else 1)
    for reason in reasons:
        assert reason.startswith("prefix: it does not work on classification")
        assert "causal_lm" not in reason
        assert " with transformers>=5.24 and peft<=0.21.2: " in reason
        assert 'pip install "transformers<5.24"' in reason


def test_the_refusal_is_true_of_the_versions_that_are_installed(model, tmp_path):
    assert bool(refused(model, jobs.table, tmp_path, machine.look("cpu", 2))) != PREFIX_ON_CLASSIFIERS
    status, reason, _ = attempt(jobs.job("prefix(3)", model, tmp_path), jobs.quiet)
    assert status == ("ok" if PREFIX_ON_CLASSIFIERS else "failed"), reason
    assert PREFIX_ON_CLASSIFIERS or "Model does not support past key values" in reason


def test_no_version_is_refused_for_language_models(tiny_llama, tmp_path):
    assert not refused(tiny_llama, jobs.prose, tmp_path, machine.look("cpu", 2))
    status, reason, _ = jobs.run("prefix(3)", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert status == "ok", reason
