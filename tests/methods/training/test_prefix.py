"""Prefix tuning against attention computed by hand, and against the base model with the same keys and values."""

import math

import pytest
import torch

from bench.architecture import attention, blocks
from methods import _peft
from tests import jobs
from tests.trainings import make, no_dropout, prepared

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
        theirs = training.model.get_base_model()(
            input_ids=inputs["input_ids"], attention_mask=mask, past_key_values=cache
        ).logits
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wrong", ["a base weight", "a prefix that nothing attends to"])
def test_what_is_wrong_is_found_out(model, tmp_path, wrong):
    training = make("prefix(3)", model, tmp_path)
    before = training.snapshot()
    training.prepare()
    training.run()
    assert all(claim.holds for claim in training.trainer.evidence(before, training))
    vars(training).pop("after")
    if wrong == "a base weight":
        with torch.no_grad():
            next(blocks(training.model)[0].parameters())[0] += 1
    else:
        training.forward = training.model.get_base_model()
    false = {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds}
    assert false == {
        "the base's weights are bit-identical"
        if wrong == "a base weight"
        else "each block's keys and values depend on its prefix"
    }
