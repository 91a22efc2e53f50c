"""What a compressed model keeps, against hand computations."""

import contextlib
import itertools
import math

import pytest
import torch

from bench.tasks.base import Batch, Quality, Retention, Task, ahead, on_device


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


def batch(item):
    return Batch({"input_ids": torch.full((1, 3), item)}, torch.tensor([item]), (3,), (1,), (item,))


def test_a_batch_is_on_its_way_to_a_gpu_before_it_is_asked_for_and_none_is_waited_for_too_long():
    told = []

    class Told:
        def begin(self, batch):
            told.append(f"begin {batch.items[0]}")
            return batch

        def end(self, batch):
            told.append(f"end {batch.items[0]}")

    told.extend(f"use {found.items[0]}" for found in ahead(map(batch, range(3)), Told()))
    # The copy of the next begins before one is used, and after that one's end, which waits for all that have begun.
    assert told == ["begin 0", "end 0", "begin 1", "use 0", "end 1", "begin 2", "use 1", "end 2", "use 2"]
    assert list(ahead(iter(()), Told())) == []
    endless = ahead(map(batch, itertools.count()), Told())
    assert [next(endless).items[0] for _ in range(3)] == [0, 1, 2]


def test_copies_are_pinned_in_a_stream_of_their_own_and_kept_until_they_are_used(monkeypatch):
    told, inside = [], []

    class Stream:
        def __init__(self, device=None):
            self.device = device

        def wait_stream(self, other):
            told.append(("wait", other.device.type))

    working = Stream()

    @contextlib.contextmanager
    def stream(which):
        inside.append(which)
        yield
        inside.pop()

    def pin(tensor):
        told.append("pin")
        return tensor.clone()

    def to(tensor, device, non_blocking):
        told.append(("copy", device.type, non_blocking, len(inside)))
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: working)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, which: told.append(("record", which is working)))
    found = list(on_device(iter([batch(7)]), torch.device("cuda")))
    assert [each.items for each in found] == [(7,)]
    copied = ("copy", "cuda", True, 1)
    assert told == ["pin", "pin", copied, copied, ("wait", "cuda"), ("record", True), ("record", True)]


def test_on_a_cpu_batches_come_as_they_are_asked_for():
    drawn = []
    batches = on_device((drawn.append(item) or batch(item) for item in range(3)), torch.device("cpu"))
    assert next(batches).items == (0,)
    assert drawn == [0]


@pytest.mark.parametrize(("metrics", "primary"), [(("accuracy",), ""), (("accuracy",), "acuracy"), ((), "accuracy")])
def test_a_primary_metric_that_a_task_does_not_return_is_refused(metrics, primary):
    with pytest.raises(TypeError, match="Mine: primary is one of metrics"):
        type("Mine", (Task,), {"metrics": metrics, "primary": primary})


def test_scores_that_are_no_numbers_leave_none_to_be_paired():
    assert Quality({"loss": 1.0}, correct=(1.0, 0.0)).correct == (1.0, 0.0)
    assert Quality({"loss": float("nan")}, correct=(1.0, float("nan"))).correct == ()
    assert Quality({"loss": float("inf")}, correct=(float("inf"),)).correct == ()
