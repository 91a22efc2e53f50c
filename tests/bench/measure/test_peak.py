"""The peak of a phase, by the kernel's mark and by an allocator's counters."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.measure import peak as peak_module
from bench.measure.peak import Peak, touch

MB = 2**20


linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps the mark")


@linux
def test_a_peak_is_seen_after_it_is_gone() -> None:
    peak = Peak(torch.device("cpu"))
    assert peak.reason == ""
    peak.start()
    tensor = torch.zeros(64 * MB // 4)
    tensor.fill_(1)
    del tensor
    found = peak.stop()
    assert found is not None
    assert abs(found - 64 * MB) < 4 * MB


@linux
def test_an_earlier_phase_does_not_show() -> None:
    peak = Peak(torch.device("cpu"))
    peak.start()
    torch.ones(64 * MB // 4)
    first = peak.stop()
    peak.start()
    second = peak.stop()
    assert first is not None
    assert second is not None
    assert first > 60 * MB
    assert second < 4 * MB


@linux
def test_freed_heap_that_the_allocator_keeps_does_not_show() -> None:
    peak = Peak(torch.device("cpu"))
    # Small blocks come from the heap, which stays mapped as long as the last one on its top does.
    blocks = [torch.ones(16 * 1024 // 4) for _ in range(4096)]
    top = blocks[-1]
    del blocks
    peak.start()
    found = peak.stop()
    assert found is not None
    assert found < 6 * MB
    assert top is not None


@linux
def test_what_was_loaded_after_the_baseline_counts_in_each_phase() -> None:
    peak = Peak(torch.device("cpu"))
    weights = torch.ones(32 * MB // 4)
    for _ in range(2):
        peak.start()
        found = peak.stop()
        assert found is not None
        assert abs(found - 32 * MB) < 4 * MB
    assert weights.numel()


@linux
def test_a_baseline_uses_up_no_seed() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Peak(torch.device("cpu"))
    assert torch.equal(torch.rand(1), expected)


def used(rounds: int) -> int:
    """Take and free blocks of many sizes, as steps with batches of many lengths do; the most bytes held at one time."""
    draw = random.Random(0)
    held: list[torch.Tensor] = []
    most = 0
    for _ in range(rounds):
        for _ in range(20):
            held.append(torch.ones(draw.randrange(32 * 1024, MB)))
            most = max(most, sum(each.nbytes for each in held))
        draw.shuffle(held)
        del held[draw.randrange(15) :]
    return most


@linux
@pytest.mark.parametrize("rounds", [8, 40])
def test_a_peak_is_what_was_held_however_often_memory_was_taken_and_freed(rounds: int) -> None:
    peak = Peak(torch.device("cpu"))
    peak.start()
    most = used(rounds)
    assert peak.stop() == pytest.approx(most, rel=0.03)


@linux
def test_what_is_held_in_a_pause_shows_no_more_than_its_leftovers() -> None:
    peak = Peak(torch.device("cpu"))
    peak.start()
    before = torch.ones(8 * MB)
    del before
    peak.pause()
    assert peak.paused
    torch.ones(64 * MB)
    # The heap is full of holes now, and small things lie between them.
    between = []
    for _ in range(400):
        large = torch.ones(MB // 16)
        between.append(torch.ones(1000))
        del large
    used(8)
    peak.resume()
    most = used(8)
    found = peak.stop()
    leftovers = sum(each.nbytes for each in between)
    assert found == pytest.approx(max(32 * MB, most + leftovers), rel=0.03)


@linux
def test_a_phase_of_pauses_alone_has_the_peak_before() -> None:
    peak = Peak(torch.device("cpu"))
    peak.start()
    torch.ones(8 * MB)
    peak.pause()
    torch.ones(16 * MB)
    assert peak.stop() == pytest.approx(32 * MB, rel=0.05)


@linux
def test_weights_that_are_mapped_from_a_file_are_held_once_touched(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(4096, 4096)}, tmp_path / "weights.pt")
    model = nn.Linear(4096, 4096, bias=False, device="meta")
    peak = Peak(torch.device("cpu"))
    peak.start()
    model.load_state_dict(torch.load(tmp_path / "weights.pt", mmap=True), assign=True)
    lazy = peak.stop()
    peak.start()
    touch(model)
    assert lazy is not None
    assert lazy < 8 * MB
    assert peak.stop() == pytest.approx(64 * MB, rel=0.05)


def test_touching_reads_every_kind_of_weight() -> None:
    import bitsandbytes as bnb

    touch(nn.Linear(2, 2, device="meta"))
    sparse = nn.Module()
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse_coo())
    touch(sparse)
    touch(bnb.nn.Linear4bit(64, 32).to("cpu"))


@pytest.mark.parametrize("missing", ["_CLEAR_REFS", "_STATUS"])
def test_where_the_kernel_has_no_mark_there_is_none_and_a_reason(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak_module, missing, tmp_path / "none" / "such")
    peak = Peak(torch.device("cpu"))
    peak.start()
    assert peak.stop() is None
    assert str(tmp_path) in peak.reason


def test_a_kernel_that_shows_no_mark_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmRSS:\t 10 kB\n")
    monkeypatch.setattr(peak_module, "_STATUS", status)
    monkeypatch.setattr(peak_module, "_CLEAR_REFS", tmp_path / "clear_refs")
    peak = Peak(torch.device("cpu"))
    assert peak.stop() is None
    assert "VmHWM" in peak.reason


class FakeAllocator:
    """torch.cuda's counters, as its documentation describes them."""

    def __init__(self) -> None:
        self.held: dict[torch.device, int] = {}
        self.mark: dict[torch.device, int] = {}

    def take(self, device: torch.device, size: int) -> None:
        self.held[device] = self.held.get(device, 0) + size
        self.mark[device] = max(self.mark.get(device, 0), self.held[device])

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.held[device])
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.mark[device])
        monkeypatch.setattr(
            torch.cuda,
            "reset_peak_memory_stats",
            lambda device: self.mark.update({device: self.held[device]}),
        )


def test_cuda_peak_is_the_allocators_above_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator, device, other = FakeAllocator(), torch.device("cuda", 1), torch.device("cuda", 0)
    allocator.patch(monkeypatch)
    allocator.take(device, 1000)  # held before the model was loaded
    peak = Peak(device)
    allocator.take(device, 300)  # the model
    peak.start()
    allocator.take(device, 50)
    allocator.take(device, -50)
    allocator.take(other, 10**6)
    assert peak.stop() == 350
    peak.start()
    assert peak.stop() == 300
    peak.start()
    peak.pause()
    allocator.take(device, 500)  # marks take no time, so nothing goes by unseen
    allocator.take(device, -500)
    assert not peak.paused
    peak.resume()
    assert peak.stop() == 800


def test_of_several_gpus_the_one_that_held_most_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator, first, second = FakeAllocator(), torch.device("cuda"), torch.device("cuda", 1)
    allocator.patch(monkeypatch)
    allocator.take(first, 1000)
    allocator.take(second, 50)
    peak = Peak(first, 2)
    allocator.take(first, 300)
    allocator.take(second, 400)
    allocator.take(second, -400)
    assert peak.stop() == 400
    peak.start()
    assert peak.stop() == 300
    assert peak.reason == ""
