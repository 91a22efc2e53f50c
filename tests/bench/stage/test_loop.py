"""The loop against a bare PyTorch loop and hand computations."""

import copy
import itertools
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.machine import machine
from bench.measure.clock import WallClock
from bench.metrics.metrics import METRICS
from bench.models.registry import open_model
from bench.recipe import recipe
from bench.stage import mask
from bench.stage.loop import Diverged, Training, _like
from bench.suite.suite import Budget
from bench.tasks.base import Batch
from bench.tasks.registry import open_task
from tests import jobs

BUDGET = Budget(steps=6, batch_size=16, max_length=16, warmup_steps=2)


@pytest.fixture
def make(tiny_bert, tmp_path):
    def make(text="full", seed=0, budget=BUDGET, clock=None):
        task = open_task(jobs.table(tmp_path), tmp_path)
        auto_class, options = task.model_options()
        torch.manual_seed(seed)
        model, tokenizer = open_model(str(tiny_bert), tmp_path).load(auto_class, options)
        (stage,) = recipe.parse(text).stages
        return Training(
            clock=clock, model=model, tokenizer=tokenizer, task=task, stage=stage, before=(), budget=budget,
            machine=machine.look("cpu", 2), seed=seed,
        )  # fmt: skip

    return make


def no_dropout(training):
    for module in training.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return training


def test_losses_and_weights_are_those_of_a_bare_loop(make):
    training, batches = make(), make().batches()
    bare = copy.deepcopy(training.model)
    torch.manual_seed(7)
    training.prepare()
    training.run()

    torch.manual_seed(7)
    bare.train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=2e-4, fused=True)
    losses = []
    for batch in itertools.islice(batches, 6):
        loss = torch.nn.functional.cross_entropy(bare(**batch.inputs).logits, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert [float(loss) for loss in training.losses] == losses
    for ours, theirs in zip(training.model.parameters(), bare.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("trainer", ["full", "lora(r=2)"])
def test_accumulated_gradient_is_the_whole_batchs(make, trainer):
    def gradients(text):
        training = no_dropout(make(text))
        training.prepare()
        # A batch whose items have different lengths: a mean of means would be another gradient only with unequal parts.
        batch = next(training.batches())
        training.gradients(batch, 1.0)
        return torch.cat([parameter.grad.flatten() for parameter in training.parameters if parameter.grad is not None])

    whole = gradients(trainer)
    for k in (2, 3, 4, 16):
        parts = gradients(f"{trainer} + accumulate({k})")
        assert torch.linalg.vector_norm(parts - whole) / torch.linalg.vector_norm(whole) < 1e-6


def test_accumulated_loss_is_the_whole_batchs(make):
    whole, parts = no_dropout(make()), no_dropout(make("full + accumulate(3)"))
    for training in (whole, parts):
        training.prepare()
    batch = next(whole.batches())
    assert float(parts.gradients(batch, 1.0)) == pytest.approx(float(whole.gradients(batch, 1.0)), rel=1e-6)


def test_the_probe_is_a_whole_batch_though_there_are_fewer_items(make):
    few, many = make(budget=Budget(batch_size=200, max_length=16)), make()
    items = len(few.task.texts("train"))
    assert items < 200 == few.probe.samples
    counts = Counter(few.probe.items)
    assert set(counts) == set(range(items))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert few.probe is few.probe
    assert many.probe.items == tuple(range(16))


def test_share_takes_a_part_of_the_steps(make):
    assert make("full(share=0.5)").steps == 3
    assert make("full(share=0.01)").steps == 1


def test_everything_that_is_not_trained_is_frozen(make):
    training = make("head")
    training.prepare()
    assert all("classifier" in name for name, p in training.model.named_parameters() if p.requires_grad)
    assert len(training.parameters) == 2


def test_throughput_of_a_synthetic_clock_is_exact(make):
    ticks = iter(
        [t for step in range(6) for t in (step * 10.0, step * 10.0 + [9.0, 7.0, 0.5, 0.25, 0.125, 0.125][step])]
    )
    training = make(clock=WallClock(now=lambda: next(ticks)))
    training.prepare()
    training.run()
    record = {
        "training": {
            "step_seconds": training.clock.seconds(), "tokens": training.tokens, "samples": training.samples, "warmup": 2,
        }
    }  # fmt: skip
    assert METRICS["train_samples_per_second"].read([record]) == 64.0
    assert METRICS["train_tokens_per_second"].read([record]) == float(sum(training.tokens[2:]))
    assert METRICS["train_seconds"].read([record]) == 17.0


def test_a_loss_that_is_not_finite_stops_the_training(make):
    training = make("full(lr=1e30)")
    training.prepare()
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d of 6"):
        training.run()


@pytest.mark.parametrize("wrong", [2, 21, 24])
def test_the_first_loss_that_is_not_finite_is_named_though_a_gpu_is_waited_for_now_and_then(make, monkeypatch, wrong):
    training = make(budget=Budget(steps=26, batch_size=4, max_length=8))
    training.prepare()
    batch, waits = training.probe, []
    training.batches = lambda: itertools.repeat(batch)
    training.device = SimpleNamespace(type="cuda")
    steps = itertools.count(1)
    training.gradients = lambda batch, scale: torch.tensor(math.inf if next(steps) >= wrong else 1.0)
    training.update = lambda: None
    for name in ("tolist", "__float__", "__bool__", "item"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real: waits.append(1) or real(self))
    with pytest.raises(Diverged, match=rf"the loss is inf at step {wrong} of 26"):
        training.run()
    assert len(waits) == (2 if wrong <= 21 else 3)


def test_a_training_that_stops_early_is_looked_at(make):
    training = make()
    training.prepare()
    batch = training.probe
    training.batches, training.device = (lambda: itertools.repeat(batch)), SimpleNamespace(type="cuda")
    training.gradients, training.update = (
        (lambda *_: torch.tensor(float("nan" if training.step else "1"))),
        lambda: None,
    )
    training._overriding = lambda hook: [lambda it: setattr(it, "stop", it.step == 3)] * (hook == "on_step_end")
    with pytest.raises(Diverged, match="step 2 of 6"):
        training.run()


def test_batches_without_padding_go_without_a_mask_that_is_idle(make):
    training, plain = no_dropout(make()), no_dropout(make())
    for each in (training, plain):
        each.prepare()
    assert not training.mask_is_idle, "a CPU need not wait to look into it"
    given = []
    training.model.register_forward_pre_hook(lambda *call: given.append(set(call[-1])), with_kwargs=True)
    training.mask_is_idle = mask.idle(training.model, training.probe)
    assert training.mask_is_idle
    given.clear()
    batch = next(training.batches())
    longest = [item for item in range(batch.samples) if batch.lengths[item] == max(batch.lengths)]
    whole = Batch(
        {name: tensor[longest] for name, tensor in batch.inputs.items()},
        batch.labels[longest],
        *(tuple(of[item] for item in longest) for of in (batch.lengths, batch.terms, batch.items)),
    )
    assert batch.padded
    assert not whole.padded
    losses = [[float(each.gradients(part, 1.0)) for part in (batch, whole)] for each in (training, plain)]
    assert losses[0] == losses[1]
    assert [("attention_mask" in names) for names in given] == [True, False]
    for ours, theirs in zip(training.parameters, plain.parameters, strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_scale_is_written_on_the_device_and_never_copied_there(make):
    training = make("full + accumulate(2)")
    training.prepare()
    whole = next(training.batches())
    training.gradients(whole, 1.0)
    ran = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            ran.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    loss = torch.ones(())
    with Seen():
        assert _like(loss, 0.25) == 0.25
    assert ran[0] == "full_like"
    assert not {"lift_fresh", "_to_copy", "copy_"} & set(ran)
    assert _like(torch.ones((), dtype=torch.float64), torch.tensor(3.0)).dtype == torch.float64
    ran.clear()
    with Seen():
        training.gradients(whole, 1.0)
    assert ran.count("full_like") >= 2
    assert "lift_fresh" not in ran


def test_unused_hooks_leave_nothing_in_the_step(make):
    training = make()
    training.prepare()
    assert training.loss == training._loss
    assert training.gradients == training._gradients
    assert training.update == training._update


def test_modifiers_wrap_by_their_order_however_they_are_written(make):
    one, other = (make(f"full + {a} + {b}") for a, b in itertools.permutations(["accumulate(2)", "mixed_precision"]))
    assert [m.name for m in one.methods] == [m.name for m in other.methods] == ["full", "mixed_precision", "accumulate"]
