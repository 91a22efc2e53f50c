"""Label smoothing against torch's own."""

import pytest
import torch

from bench.tasks.kinds.classification import Classification
from tests import jobs
from tests.trainings import claims, make, no_dropout, prepared


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_loss_and_gradient_of_a_classifier_are_torchs(model, tmp_path, smoothing):
    training = no_dropout(prepared(f"full + label_smoothing({smoothing})", model, tmp_path))
    batch = training.probe
    parameters = training.parameters
    ours = training.loss(batch)
    logits = training.model(**batch.inputs).logits
    torchs = torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, torchs)
    for one, other in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(torchs, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_loss_of_a_language_model_is_torchs(tiny_llama, tmp_path):
    training = prepared("full + label_smoothing(0.1)", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    batch = training.probe
    ids, real = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    logits = training.model(**batch.inputs).logits
    wanted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        ids.masked_fill(~real, -100)[:, 1:].flatten(),
        label_smoothing=0.1,
    )
    torch.testing.assert_close(training.loss(batch), wanted)


def test_by_hand(tiny_bert, tmp_path):
    training = prepared("full + label_smoothing(0.3)", tiny_bert, tmp_path)

    class Outputs:
        logits = torch.tensor([[2.0, 0.0, 1.0]])

    batch = next(iter(training.probe.split(training.probe.samples)))
    log = Outputs.logits[0].log_softmax(0)
    targets = torch.full((3,), 0.1)
    targets[int(batch.labels)] += 0.7
    torch.testing.assert_close(training.criterion(Outputs, batch), -(targets * log).sum())


def test_the_score_is_not_smoothed(tiny_bert, tmp_path, monkeypatch):
    seen = []
    real = Classification.evaluate

    def spy(self, *args, **keys):
        seen.append(self.criterion)
        return real(self, *args, **keys)

    monkeypatch.setattr(Classification, "evaluate", spy)
    status, reason, _ = jobs.run("full + label_smoothing(0.5)", tiny_bert, tmp_path)
    assert status == "ok", reason
    ((criterion),) = seen
    assert criterion.__func__ is Classification.criterion


def test_another_share_is_found_out(model, tmp_path):
    training = make("full + label_smoothing(0.1)", model, tmp_path)
    training.prepare()
    text = "a share of 0.1 goes to all classes"
    assert claims(training)[text][0]
    training.criterion = training.stage.modifiers[0].wrap_criterion(training, training.criterion)  # twice
    assert not claims(training)[text][0]
