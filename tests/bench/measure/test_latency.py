from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.measure import latency
from bench.measure.latency import Pass, Samples, encoder, measure, shape_inputs, wall_clock
from bench.record import pyperf_file

CPU = torch.device("cpu")


class Clock:
    """A clock that only forward passes move."""

    def __init__(self, *costs: float) -> None:
        self.time = 100.0
        self.costs = list(costs)
        self.calls = 0

    def now(self) -> float:
        return self.time

    def forward(self) -> None:
        self.time += self.costs[min(self.calls, len(self.costs) - 1)]
        self.calls += 1


def test_values_are_exact() -> None:
    clock = Clock(8.0, 1.0, 1.0, 1.0, 0.5, 0.25)
    found = measure(Pass(clock.forward), now=clock.now, samples=2)[0]
    assert found.warmups == (8.0, 1.0, 1.0, 1.0)
    assert found.loops == 1
    assert found.values == (0.5, 0.25)


def test_a_short_pass_is_looped_and_the_value_is_of_one_pass() -> None:
    clock = Clock(1.0, 2.0**-10)
    found = measure(Pass(clock.forward), now=clock.now, samples=3, min_seconds=2.0**-7)[0]
    assert found.loops == 8  # by the short ones, not by the slow first
    assert found.values == (2.0**-10,) * 3
    assert clock.calls == len(found.warmups) + 3 * 8


class Queue:
    """A GPU that is told of its work before it does it."""

    def __init__(self, queueing: float, working: float) -> None:
        self.queueing, self.working = queueing, working
        self.host = self.done = 0.0

    def forward(self) -> None:
        self.host += self.queueing
        self.done = max(self.done, self.host) + self.working

    def wait(self, device: object = None) -> None:
        self.host = max(self.host, self.done)

    def now(self) -> float:
        self.wait()
        return self.host


def test_each_pass_on_a_gpu_is_waited_for_and_not_queued_behind_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(2.0**-12, 2.0**-11)
    options: dict[str, Any] = {"samples": 2, "min_seconds": 2.0**-7}
    found = measure(Pass(queue.forward), now=queue.now, wait=queue.wait, **options)[0]
    assert found.loops > 1
    assert set(found.values) == set(found.warmups) == {2.0**-12 + 2.0**-11}
    # Queued back to back they would take less: that is what is not measured.
    assert max(measure(Pass(queue.forward), now=queue.now, **options)[0].values) < 2.0**-12 + 2.0**-11
    monkeypatch.setattr(torch.cuda, "synchronize", queue.wait)
    waiting = latency._wait(torch.device("cuda"))
    assert waiting is not None
    queue.forward()
    waiting()
    assert queue.host == queue.done
    assert latency._wait(CPU) is None


def test_warm_up_goes_on_until_it_is_steady_and_ends() -> None:
    halving = Clock(*(2.0**-power for power in range(6)), 2.0**-6)
    assert len(measure(Pass(halving.forward), now=halving.now, samples=3)[0].warmups) == 9  # three at the floor
    restless = Clock(*([1.0, 2.0] * 100))
    assert len(measure(Pass(restless.forward), now=restless.now, samples=3)[0].warmups) == latency.MAX_WARMUPS


def test_a_clock_too_coarse_for_a_pass_still_gives_finite_loops() -> None:
    clock = Clock(0.0)
    assert measure(Pass(clock.forward), now=clock.now, samples=1)[0].loops == 10_000


def test_passes_take_turns_and_the_order_turns_round() -> None:
    turns: list[str] = []
    time = [0.0]

    def spend(name: str, seconds: float) -> None:
        turns.append(name)
        time[0] += seconds

    found = measure(
        Pass(lambda: spend("a", 1.0)), Pass(lambda: spend("b", 3.0)), now=lambda: time[0], samples=3, min_seconds=2.0
    )
    assert "".join(turns) == "aaa" + "bbb" + "aab" + "baa" + "aab"  # warm-ups, then two passes of `a` a sample
    assert [of.values for of in found] == [(1.0,) * 3, (3.0,) * 3]


def test_without_samples_each_runs_once() -> None:
    clock = Clock(1.0)
    found = measure(Pass(clock.forward), now=clock.now, samples=0)[0]
    assert found == Samples(1, (1.0,), ())
    assert clock.calls == 1


def test_cuda_is_synchronised_before_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(device))
    monkeypatch.setattr(time, "perf_counter", lambda: float(events.append("read") or len(events)))
    device = torch.device("cuda", 1)
    now = wall_clock(device)
    now()
    now()
    assert events == [device, "read", device, "read"]


class Tokenizer:
    all_special_ids = (0, 2, 3)

    def __len__(self) -> int:
        return 6


def test_inputs_are_ordinary_tokens_all_attended() -> None:
    inputs = shape_inputs(Tokenizer(), (4, 50), CPU)
    assert inputs["input_ids"].shape == (4, 50)
    assert set(inputs["input_ids"].flatten().tolist()) == {1, 4, 5}
    assert inputs["attention_mask"].shape == (4, 50)
    assert bool((inputs["attention_mask"] == 1).all())
    assert set(shape_inputs(3, (4, 50), CPU)["input_ids"].flatten().tolist()) == {0, 1, 2}


def test_inputs_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = shape_inputs(1000, (2, 8), CPU, seed=3)["input_ids"]
    torch.manual_seed(2)
    assert torch.equal(shape_inputs(1000, (2, 8), CPU, seed=3)["input_ids"], first)
    assert not torch.equal(shape_inputs(1000, (2, 8), CPU, seed=4)["input_ids"], first)


def test_a_vocabulary_of_special_tokens_is_refused() -> None:
    class Special(Tokenizer):
        all_special_ids = tuple(range(6))

    with pytest.raises(ValueError, match="not special"):
        shape_inputs(Special(), (1, 1), CPU)


class Spy(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Dropout()
        self.seen: set[tuple[Any, ...]] = set()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        how = (self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        self.seen.add((tuple(input_ids.shape), *how, torch.get_num_threads()))
        time.sleep(0.001)
        sum(range(2_000))
        return input_ids


def test_an_encoder_is_timed_in_evaluation_and_all_is_put_back() -> None:
    model = Spy()
    model.layer.eval()
    before = torch.get_num_threads()
    entries = encoder(model, 50, (2, 7), device=CPU, samples=4, process=3, threads=2)
    assert {(shape, training, grad, inference) for shape, training, grad, inference, _ in model.seen} == {
        ((2, 7), False, False, True)
    }
    assert {threads for *_, threads in model.seen} - {before} <= {1, 2}
    assert model.training
    assert not model.layer.training
    assert torch.get_num_threads() == before
    assert [(entry["clock"], entry["threads"]) for entry in entries] == [("wall", 2), ("cpu", 1)]
    for entry in entries:
        assert (entry["batch"], entry["length"], entry["process"], entry["unit"]) == (2, 7, 3, "second")
        assert len(entry["values"]) == 4
        assert len(entry["warmups"]) >= 3
        assert all(value > 0 for value in entry["values"])
    wall, cpu = entries
    assert min(wall["values"]) > 0.001, "sleep is wall time"
    assert min(cpu["values"]) < 0.001, "sleep is no CPU time"


def test_threads_are_set_for_each_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(latency, "measure", lambda *passes, **_: used.append(torch.get_num_threads()) or FOUND)
    encoder(Spy(), 50, (1, 2), device=CPU, samples=3, process=0, threads=2)
    assert used == [2, 1]


FOUND = [latency.Samples(1, (1.0,), (1.0,))]


def test_threads_are_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    before = torch.get_num_threads()
    monkeypatch.setattr(latency, "measure", fail)
    with pytest.raises(MemoryError):
        encoder(Spy(), 50, (1, 2), device=CPU, samples=3, process=0, threads=1)
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


class RefusesInference(Spy):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if torch.is_inference_mode_enabled():
            raise RuntimeError("Inference tensors do not track version counter.")
        return super().forward(input_ids, attention_mask)


def test_a_model_that_refuses_inference_mode_runs_without_gradients() -> None:
    model = RefusesInference()
    encoder(model, 50, (1, 2), device=CPU, samples=3, process=0, threads=1)
    assert {(grad, inference) for _, _, grad, inference, _ in model.seen} == {(False, False)}


def test_an_uncompressed_model_is_timed_beside_and_as_the_model_is() -> None:
    model, other = Spy(), RefusesInference()
    entries = encoder(model, 50, (1, 2), device=CPU, samples=3, process=0, threads=1, uncompressed=other)
    assert [len(entry["uncompressed"]["values"]) for entry in entries] == [3, 3]
    for one in (model, other):
        modes = {(training, grad, inference) for _, training, grad, inference, _ in one.seen}
        assert (False, False, False) in modes
    assert (False, False, True) in {tuple(seen[1:4]) for seen in model.seen}, "it was tried alone"
    alone = encoder(model, 50, (1, 2), device=CPU, samples=3, process=0, threads=1)
    assert "uncompressed" not in alone[0]


def test_another_error_is_not_hidden() -> None:
    class Broken(Spy):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        encoder(Broken(), 50, (1, 2), device=CPU, samples=3, process=0, threads=1)


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )


def test_a_sequence_beyond_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens: the model's positions end at 16"):
        encoder(bert(), 50, (1, 17), device=CPU, samples=3, process=0, threads=1)


def test_a_bert_with_four_bit_layers_is_timed_and_can_still_train() -> None:
    import bitsandbytes as bnb

    model = bert()
    layer = bnb.nn.Linear4bit(64, 32, quant_type="nf4").to("cpu").requires_grad_(False)
    model.encoder.layer[0].output.dense = layer
    entries = encoder(model, 50, (2, 8), device=CPU, samples=3, process=0, threads=1)
    assert len(entries) == 2
    assert not layer.weight.is_inference(), "repacked in inference mode, it could never take part in training again"


def entries(process: int = 0) -> list[dict[str, Any]]:
    model = Spy()
    return [
        *encoder(model, 50, (1, 4), device=CPU, samples=3, process=process, threads=2),
        *encoder(model, 50, (2, 4), device=CPU, samples=3, process=process, threads=2),
    ]


def test_pyperf_opens_the_file(tmp_path: Path) -> None:
    import pyperf

    file = tmp_path / "latency.json"
    taken = [*entries(0), *entries(1)]
    pyperf_file.write(taken, file)
    pyperf_file.write(taken, file)  # replaces
    suite = pyperf.BenchmarkSuite.load(str(file))
    assert len(suite) == 4, "a benchmark for each shape and clock"
    for benchmark in suite:
        assert benchmark.get_unit() == "second"
        assert len(benchmark.get_runs()) == 2, "a run for each process"
    first = suite.get_benchmark("forward 1x4, wall time, 2 threads").get_runs()[0]
    assert list(first.values) == taken[0]["values"]
    assert list(first.warmups) == [(1, seconds) for seconds in taken[0]["warmups"]]
    assert first.get_loops() == taken[0]["loops"]
    shown = subprocess.run(
        [sys.executable, "-m", "pyperf", "stats", str(file)], capture_output=True, text=True, check=True
    )
    assert "forward 2x4, cpu time, 1 threads" in shown.stdout
    assert "Number of values: 6" in " ".join(shown.stdout.split()).replace("Total number", "Number")


def test_a_value_of_zero_is_refused(tmp_path: Path) -> None:
    entry = {**entries()[0], "values": [0.0]}
    with pytest.raises(ValueError, match="value"):
        pyperf_file.write([entry], tmp_path / "latency.json")


def test_entries_are_ready_for_a_record() -> None:
    from bench.metrics.families.latency import latency as latency_metric

    taken = entries()
    assert json.loads(json.dumps(taken)) == taken
    for clock in ("wall", "cpu"):
        value = latency_metric(2, 4, clock).read([{"latency": taken}])
        assert value is not None
        assert value > 0
