"""What a method's hooks are given."""

import torch

from bench.stage import work
from bench.stage.work import sampled


def test_most_often_all_logits_are_compared_and_of_very_many_some_evenly_spaced(monkeypatch):
    logits = torch.arange(40.0).reshape(10, 4)
    assert sampled(logits) is logits
    monkeypatch.setattr(work, "PROBED", 19)
    assert sampled(logits)[:, 0].tolist() == [0, 8, 20, 28]
    assert torch.equal(sampled(sampled(logits)), sampled(logits))
    monkeypatch.setattr(work, "PROBED", 3)
    assert len(sampled(logits)) == 1


def test_a_training_and_its_evidence_hold_with_some_of_the_logits(tiny_llama, tmp_path, monkeypatch):
    from bench.testing import jobs

    monkeypatch.setattr(work, "PROBED", 2000)
    compared = []
    real = work.Work.probe_logits
    monkeypatch.setattr(work.Work, "probe_logits", lambda self: compared.append(real(self)) or compared[-1])
    status, reason, _ = jobs.run("lora(r=2) >> merge", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert status == "ok", reason
    assert compared
    assert all(logits.numel() <= 2000 for logits in compared)
