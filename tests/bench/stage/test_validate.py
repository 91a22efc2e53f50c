"""Scores on the validation split while a model trains, against a bare loop that scores it by hand."""

import copy

import pytest
import torch

from bench.stage.validate import Validation
from bench.testing import jobs
from tests.trainings import make


def by_hand(training):
    """The accuracy on the validation split, item by item."""
    model = copy.deepcopy(training.model).eval()
    right = items = 0
    for batch in training.task.batches("validation", training.tokenizer, batch_size=1, max_length=16):
        with torch.no_grad():
            right += int(model(**batch.inputs).logits.argmax(-1) == batch.labels)
        items += 1
    return right / items


@pytest.fixture
def training(tiny_bert, tmp_path):
    training = make("full(lr=0.01)", tiny_bert, tmp_path, steps=7)
    training.prepare()
    return training


def test_the_curve_is_the_score_of_the_model_after_each_of_so_many_steps_and_after_the_last(training):
    validation, seen = Validation(training, 3, keeps=False), {}
    for step in training.each_step():
        if validation.due():
            seen[step + 1] = by_hand(training)
            validation.score()
    assert {at["step"]: at["metrics"]["accuracy"] for at in validation.curve} == seen
    assert list(seen) == [3, 6, 7]
    assert set(validation.curve[0]["metrics"]) == set(training.task.metrics)


def test_the_best_weights_come_back_and_the_proof_sees_others(training):
    validation, weights = Validation(training, 1, keeps=True), {}
    scripted = iter([0.2, 0.6, 0.9, 0.9, 0.4, 0.3, 0.1])
    validation._metrics = lambda: {"accuracy": next(scripted)}
    for step in training.each_step():
        validation.score()
        weights[step + 1] = [parameter.detach().clone() for parameter in training.parameters]
    validation._metrics = lambda: {"accuracy": 0.9}
    assert validation.best_step() == 3  # of equal ones the first
    assert validation.restore().holds
    assert all(map(torch.equal, training.parameters, weights[3]))
    assert not all(map(torch.equal, training.parameters, weights[4]))
    validation._metrics = lambda: {"accuracy": 0.6}
    assert not validation.restore().holds


def test_a_training_is_the_same_with_it_as_without(tiny_bert, tmp_path):
    bare = jobs.run("full", tiny_bert, tmp_path)[2][0]
    scored = jobs.run("full", tiny_bert, tmp_path, budget={"eval_steps": 2})[2][0]
    assert scored["training"]["losses"] == bare["training"]["losses"]
    assert scored["quality"] == bare["quality"]
    assert [at["step"] for at in scored["training"]["validation"]] == [2, 4, 6]
    assert "validation" not in bare["training"]
    assert scored["seconds"]["validate"] > 0


def test_the_model_that_is_left_is_the_best(tiny_bert, tmp_path):
    budget = {"eval_steps": 2, "load_best_model_at_end": True, "steps": 8}
    status, reason, (record,) = jobs.run(
        "full(lr=0.02)", tiny_bert, tmp_path, budget=budget, measure={"split": "validation"}
    )
    assert (status, reason) == ("ok", "")
    best = max(at["metrics"]["accuracy"] for at in record["training"]["validation"])
    assert record["quality"]["metrics"]["accuracy"] == best
    assert any("best validation score of 4" in claim["text"] for claim in record["evidence"])


def test_epochs_are_passes_over_the_training_items(tiny_bert, tmp_path):
    training = make("full", tiny_bert, tmp_path, epochs=1.5)
    items = len(training.task.texts("train"))
    assert training.steps == -(-3 * items // (2 * training.budget.batch_size))
    taken = []
    training.prepare()
    for _ in training.each_step():
        taken += training.largest.items if training.step == 0 else ()
    assert sum(training.samples) >= 1.5 * items > sum(training.samples) - training.budget.batch_size


def test_windows_of_text_are_an_epochs_items(tiny_llama, tmp_path):
    training = make("full", tiny_llama, tmp_path, task=jobs.prose(tmp_path), epochs=1)
    blocks = len(training.task.encoded("train", training.tokenizer, training.budget.max_length))
    assert training.steps == -(-blocks // training.budget.batch_size)


def test_it_goes_on_with_what_another_process_has_seen(training):
    first, again = Validation(training, 2, keeps=True), Validation(training, 2, keeps=True)
    scripted = iter([0.2, 0.6, 0.4])
    first._metrics = lambda: {"accuracy": next(scripted)}
    for _ in training.each_step():
        if first.due() and len(first.curve) < 3:
            first.score()
    again.load_state_dict(first.state_dict())
    again._metrics = lambda: {"accuracy": 0.6}
    assert again.best_step() == 4
    assert again.restore().holds
    assert all(map(torch.equal, training.parameters, first.best))
