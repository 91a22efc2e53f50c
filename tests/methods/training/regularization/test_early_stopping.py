"""Early stopping with scripted scores, and its score by hand."""

import pytest
import torch

from bench.tasks.registry import open_task
from methods.training.regularization import early_stopping
from tests import jobs
from tests.trainings import claims, make, prepared
from tests.transforms import refusals


@pytest.fixture
def scripted(monkeypatch):
    """Give the validation losses; weights are noted as they are at each."""

    def script(training, *losses):
        weights, script = [], iter(losses)

        def scored(training):
            weights.append([p.detach().clone() for p in training.parameters])
            return next(script)

        monkeypatch.setattr(early_stopping, "_validation_loss", scored)
        training.run()
        return weights

    return script


def same(parameters, weights):
    return all(torch.equal(p, w) for p, w in zip(parameters, weights, strict=True))


@pytest.mark.parametrize(
    ("options", "losses", "steps", "best"),
    [
        ("patience=1, every=1", [3, 2, 1, 1], 4, 2),  # no better is not better
        ("patience=2, every=1", [3, 2, 4, 1, 4, 4], 6, 3),  # a fall ends the waiting
        ("patience=2, every=1", [3, 4, 5], 3, 0),
        ("patience=1, every=2", [3, 2, 2.5], 6, 1),
        ("patience=3, every=2", [3, 2, 1, 0.5], 8, 3),  # patience never ends
        ("patience=3, every=3", [3, 2, 4], 8, 1),  # after the last step too, though it is no third
    ],
)
@pytest.mark.parametrize("trainer", ["full", "lora(r=2)"])
def test_it_stops_when_patience_ends_and_goes_back_to_the_best(
    model, tmp_path, scripted, trainer, options, losses, steps, best
):
    training = prepared(f"{trainer} + early_stopping({options})", model, tmp_path, steps=8)
    weights = scripted(training, *losses)
    assert len(training.losses) == (steps if options != "patience=3, every=3" else 8)
    assert len(weights) == len(losses)
    assert same(training.parameters, weights[best])
    assert all(best == other or not same(training.parameters, weights[other]) for other in range(len(weights)))


def test_the_score_is_the_tasks_mean_loss_over_the_validation_split(model, tmp_path):
    training = prepared("full + early_stopping", model, tmp_path, steps=3)
    training.run()
    ((step, loss),) = training.state["early_stopping"].losses
    task, tokenizer = training.task, training.tokenizer
    labels = torch.tensor(task.targets("validation"))
    training.model.eval()
    with torch.no_grad():
        logits = [
            training.model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=16)).logits[0]
            for text in task.texts("validation")
        ]
    assert step == 3
    assert len(labels) > 5
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(torch.stack(logits), labels)), rel=1e-5)


def test_validation_leaves_the_training_as_it_was(tiny_bert, tmp_path):
    plain, stopped = (
        prepared(text, tiny_bert, tmp_path) for text in ("full", "full + early_stopping(patience=50, every=1)")
    )
    for training in (plain, stopped):
        torch.manual_seed(0)
        training.run()
    assert torch.equal(torch.stack(plain.losses), torch.stack(stopped.losses))
    assert stopped.model.training


def test_weights_that_are_not_the_best_are_found_out(tiny_bert, tmp_path):
    training = prepared("full(lr=0.01) + early_stopping(patience=50, every=1)", tiny_bert, tmp_path)
    training.run()
    text = "the weights are the best that were seen, by the loss of all validation items"
    assert claims(training)[text][0]
    with torch.no_grad():
        training.parameters[-1][0] += 1
    assert not claims(training)[text][0]


def few(folder):
    """A table of which no text falls into validation."""
    lines = [f"{'apple' if number % 2 else 'iron'} {number},{number % 2}" for number in range(10)]
    (folder / "data.csv").write_text("\n".join(["text,label", *lines]))
    return jobs.table(folder)


def test_without_validation_items_it_is_refused_when_planning(tiny_bert, tmp_path):
    task = open_task(few(tmp_path), tmp_path)
    assert not task.problems()
    assert task.splits() == {"train", "test"}
    (reason,) = refusals("full + early_stopping", tiny_bert, tmp_path)
    assert reason.startswith("early_stopping: the task's validation split is empty")
    assert not refusals("full", tiny_bert, tmp_path)


def test_with_validation_items_it_is_not(tiny_bert, tmp_path):
    assert not refusals("full + early_stopping", tiny_bert, tmp_path)
    assert open_task(jobs.prose(tmp_path), tmp_path).splits() == {"train", "validation", "test"}


def test_what_is_scored_afterwards_are_the_best_weights(tiny_bert, tmp_path):
    training = make("full + early_stopping(patience=1, every=1)", tiny_bert, tmp_path)
    training.prepare()
    training.run()
    best = training.probe_logits()
    training.finish()
    assert torch.equal(training.probe_logits(), best)
