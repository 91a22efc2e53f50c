"""What a compressed model keeps, against hand computations."""

import math

import pytest
import torch

from bench.tasks.base import Retention


def logits(*rows):
    return torch.tensor(rows, dtype=torch.double).log()


def test_retention_is_that_of_a_hand_computation():
    theirs = logits([0.5, 0.5 - 1e-6, 1e-6], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1])
    ours = logits([0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.8, 0.1, 0.1])
    labels = torch.tensor([0, 0, 2, 1])
    kept = Retention()
    kept.add(ours[:1], theirs[:1], labels[:1])
    kept.add(ours[1:], theirs[1:], labels[1:])
    found = kept.metrics()
    assert found["agreement"] == 2 / 4
    assert (found["won"], found["lost"]) == (1, 1)
    p, q = theirs.double().exp(), ours.double().exp()
    by_hand = math.fsum(float(a * math.log(a / b)) for a, b in zip(p.flatten(), q.flatten(), strict=True)) / 4
    assert found["kl_divergence"] == pytest.approx(by_hand, rel=1e-9)


def test_small_divergences_are_no_noise_and_parts_add_up():
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(3000, 3001, generator=generator)  # more than one part
    ours = theirs + 1e-4 * torch.randn(theirs.shape, generator=generator)
    kept = Retention()
    kept.add(ours, theirs, torch.zeros(3000, dtype=torch.long))
    p, q = theirs.double().softmax(-1), ours.double().softmax(-1)
    assert kept.metrics()["kl_divergence"] == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-6)
    assert 1e-9 < kept.metrics()["kl_divergence"] < 1e-8


def test_a_model_diverges_from_itself_by_nothing():
    kept = Retention()
    kept.add(some := torch.randn(50, 7), some, torch.randint(7, (50,)))
    assert kept.metrics() == {"agreement": 1.0, "kl_divergence": 0.0, "won": 0, "lost": 0}


def test_logits_that_are_not_numbers_agree_with_nothing():
    kept = Retention()
    broken = torch.full((3, 2), torch.nan)
    kept.add(broken, broken, torch.zeros(3, dtype=torch.long))
    found = kept.metrics()
    assert found["agreement"] == 0
    assert math.isnan(found["kl_divergence"])
