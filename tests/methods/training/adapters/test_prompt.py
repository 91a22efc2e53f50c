"""Prompt tuning against the base model with the same vectors in front."""

import dataclasses

import pytest
import torch

from bench.models.architecture import blocks, embeddings
from bench.models.structure import Structure
from bench.stage import evidence
from methods import _peft
from tests import jobs
from tests.trainings import make, no_dropout, prepared


@pytest.fixture
def given(model, tmp_path):
    """The model and a task that it can be prompted for."""
    return model, jobs.prose(tmp_path) if model.name == "tiny-llama" else jobs.table(tmp_path)


def test_the_prompt_has_a_vector_a_token_and_starts_as_words(given, tmp_path):
    model, task = given
    training = prepared("prompt(5)", model, tmp_path, task=task)
    table = _peft.virtual_tokens(training.model)
    assert table.shape == (5, 32)
    head = 3 * 32 + 3 if model.name == "tiny-bert" else 0  # a language model's is not new
    assert sum(p.numel() for p in training.parameters) == 5 * 32 + head
    words = embeddings(training.model).weight
    assert all((words == row).all(1).any() for row in table)


def test_outputs_are_those_of_the_base_with_the_vectors_in_front(given, tmp_path):
    model, task = given
    training = no_dropout(prepared("prompt(5)", model, tmp_path, task=task))
    table = torch.nn.init.normal_(_peft.virtual_tokens(training.model).data)
    training.model.eval()
    inputs = training.probe.inputs
    items = len(inputs["input_ids"])
    base = training.model.get_base_model()
    with torch.no_grad():
        ours = training.model(**inputs).logits
        vectors = torch.cat([table.expand(items, -1, -1), embeddings(training.model)(inputs["input_ids"])], 1)
        mask = torch.cat([torch.ones(items, 5, dtype=torch.long), inputs["attention_mask"]], 1)
        theirs = base(inputs_embeds=vectors, attention_mask=mask).logits
    torch.testing.assert_close(ours, theirs)


def test_a_base_that_moved_is_found_out(given, tmp_path):
    model, task = given
    training = make("prompt(3)", model, tmp_path, task=task)
    before = training.snapshot()
    training.prepare()
    training.began = evidence.marks(training.model)
    training.run()
    assert not [claim for claim in training.trainer.evidence(before, training) if not claim.holds]
    vars(training).pop("after")
    with torch.no_grad():
        next(blocks(training.model)[0].parameters())[0] += 1
    false = {claim.text for claim in training.trainer.evidence(before, training) if not claim.holds}
    assert "the base's weights are bit-identical" in false


def test_a_decoder_that_classifies_is_refused(plan_context):
    at = plan_context("prompt(3)", model="llama", structure=Structure(needs_ids=True))
    (problem,) = at.stage.main.problems(at)
    assert "from which it cannot tell the last token from the padding; use prefix" in problem
    assert not list(at.stage.main.problems(dataclasses.replace(at, task="causal_lm")))
