"""What a pair is made of, against hand computations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.gate.case import Case
from bench.gate.pairs import Pairs, paired
from tests.bench.gate.sides import CASES, LATENCY, PEAK, THROUGHPUT, side

CASE = CASES[0]


def half(seconds: list[float], held: int | None = 100, **trust: Any) -> dict[str, Any]:
    """One side of a line: CPU times; wall times are twice that."""
    repeats = [{THROUGHPUT: {"cpu": each, "wall": 2 * each, "cuda": None}} for each in seconds]
    return {"repeats": repeats, "held": {PEAK: held}, "trust": {"contended": False, "reason": "", **trust}}


def line(base: dict[str, Any], head: dict[str, Any], turns: bool = True) -> dict[str, Any]:
    return {"base": base, "head": head, "turns": turns}


def test_neighbouring_repeats_are_compared_and_the_median_is_taken() -> None:
    # The machine became three times as slow half-way; each ratio of neighbours is 1.1, but for one.
    base, head = half([1.0, 1.0, 1.0, 3.0, 3.0]), half([1.1, 1.1, 1.4, 3.3, 3.3])
    found = paired(CASE, {THROUGHPUT, PEAK}, line(base, head), "cpu")
    assert found[THROUGHPUT].log_ratio == pytest.approx(math.log(1.1))
    assert (found[THROUGHPUT].base.value, found[THROUGHPUT].head.value) == (1.0, 1.4)
    assert (found[THROUGHPUT].base.wall, found[THROUGHPUT].head.wall) == (2.0, 2.8)
    assert (found[PEAK].base.value, found[PEAK].head.value) == (100.0, 100.0)


def test_workers_that_did_not_take_turns_have_no_neighbours() -> None:
    base, head = half([1.0, 1.0, 4.0]), half([1.1, 9.0, 1.1])
    found = paired(CASE, {THROUGHPUT}, line(base, head, turns=False), "cpu")
    assert found[THROUGHPUT].log_ratio == pytest.approx(math.log(1.1))


def test_a_time_of_zero_has_no_ratio() -> None:
    assert math.isnan(paired(CASE, {THROUGHPUT}, line(half([0.0]), half([1.0])), "cpu")[THROUGHPUT].log_ratio)


def test_bytes_that_cannot_be_known_are_left_out() -> None:
    assert not paired(CASE, {PEAK}, line(half([1.0], None), half([1.0])), "cpu")


@pytest.mark.parametrize(
    ("trust", "clock", "spoiled"),
    [
        ({"contended": True, "reason": "threads waited 2 s for a CPU"}, "cpu", ""),
        ({"stolen_seconds": 1.0, "cpu_seconds": 3.0}, "cpu", "head: the hypervisor took 25% of the CPU time"),
        ({"stolen_seconds": 0.04, "cpu_seconds": 0.01}, "cpu", ""),
        (
            {"contended": True, "reason": "other processes are on the GPU (1)"},
            "cuda",
            "head: other processes are on the GPU (1)",
        ),
    ],
)
def test_what_spoils_a_clock_is_said(trust: dict[str, Any], clock: Any, spoiled: str) -> None:
    base, head = half([1.0]), half([1.0], **trust)
    for each in (base, head):
        each["repeats"][0][THROUGHPUT]["cuda"] = 1.0
    assert paired(CASE, {THROUGHPUT}, line(base, head), clock)[THROUGHPUT].spoiled == spoiled


def test_what_is_kept_is_taken_before_anything_is_measured_and_a_torn_line_is_not(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    kept = {"case": CASE.name, "metrics": [THROUGHPUT], **line(half([1.0]), half([1.2]))}
    file.write_text(json.dumps({"identity": "this"}) + "\n" + json.dumps(kept) + "\n" + json.dumps(kept)[:40])
    sides = [side(tmp_path / which, which) for which in ("base", "head")]
    for each in sides:
        each.folder.mkdir(parents=True)
    pairs = Pairs(sides[0], sides[1], [CASE], 2, "cpu", file, identity="this")
    ((case, found),) = pairs.measure({CASE.name: {THROUGHPUT}})
    assert case == CASE
    assert found[THROUGHPUT].log_ratio == pytest.approx(math.log(1.2))
    ((_, measured),) = pairs.measure({CASE.name: {THROUGHPUT}})
    assert measured[THROUGHPUT].base.value == pytest.approx(0.01, rel=0.05)
    assert json.loads(file.read_text().splitlines()[-1])["pair"] == 2
    assert not Pairs(sides[0], sides[1], [CASE], 2, "cpu", file, identity="other").kept


def test_pieces_are_put_together_to_repeats_that_are_long_enough(tmp_path: Path) -> None:
    sides = [side(tmp_path / which, which, seconds={LATENCY: 0.003}, spread=0.0) for which in ("base", "head")]
    for each in sides:
        each.folder.mkdir(parents=True)
    case = Case("full: serve", "full", "serve", (LATENCY,))
    pairs = Pairs(sides[0], sides[1], [case], 2, "cpu", tmp_path / "pairs.jsonl")
    list(pairs.measure({case.name: {LATENCY}}))
    assert pairs._pieces == {(case.name, LATENCY): 17}  # 50 ms of 3 ms each
