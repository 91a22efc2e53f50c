"""The gate from two sides to a verdict, over sides that are programs without torch: the real protocol, pairs and decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gate.gate import GateError, gate, grown
from bench.gate.verdict import Verdict, read
from bench.suite.gate import GateTable
from tests.bench.gate.sides import CASES, LATENCY, PEAK, SUITE, THROUGHPUT, side

GATE = {"throughput": "3%", "latency": "3%", "peak_memory": "16 MiB", "accuracy": "1 point", "size": "1%"}


def run(folder: Path, base: dict[str, Any] | None = None, head: dict[str, Any] | None = None, **table: Any) -> Verdict:
    sides = side(folder / "base", "base", **(base or {})), side(folder / "head", "head", **(head or {}))
    return gate(*sides, GateTable.model_validate({**GATE, **table}), folder, lambda line: None)


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.metric: check.outcome for check in verdict.checks}


def test_the_same_twice_passes(tmp_path: Path) -> None:
    verdict = run(tmp_path)
    assert outcomes(verdict) == dict.fromkeys((THROUGHPUT, LATENCY, PEAK, "accuracy", "size_on_disk"), "pass")
    assert (verdict.outcome, verdict.status) == ("pass", 0)
    assert read(tmp_path / "gate.json") == verdict


def test_a_slowdown_is_a_regression_in_its_metric_alone_and_says_where_the_time_went(tmp_path: Path) -> None:
    operators = {"aten::mm": 0.004, "phase: forward and backward": 0.008, "phase: forward": 0.003}
    slower = {"seconds": {THROUGHPUT: 0.0106, LATENCY: 0.002}, "profile": {**operators, "aten::sort": 0.0005}}
    verdict = run(tmp_path, {"profile": operators}, slower)
    assert {metric for metric, outcome in outcomes(verdict).items() if outcome == "regression"} == {THROUGHPUT}
    assert verdict.status == 1
    check = next(check for check in verdict.checks if check.metric == THROUGHPUT)
    assert check.change == pytest.approx(0.06, abs=0.005)
    assert check.interval is not None
    assert check.interval[0] < check.change < check.interval[1]
    assert (check.pairs, len(check.base_values), check.clock) == (10, 20, "cpu")
    # Seconds for each token are shown as tokens a second.
    assert check.base == pytest.approx(100, rel=0.02)
    assert check.head == pytest.approx(100 / 1.06, rel=0.02)
    assert [(each.name, each.head - each.base) for each in check.grown] == [("aten::sort", 0.0005)]


def test_bytes_are_compared_exactly(tmp_path: Path) -> None:
    verdict = run(tmp_path, head={"held": {PEAK: 10**8 + 64 * 2**20}})
    check = next(check for check in verdict.checks if check.metric == PEAK)
    assert (check.outcome, check.change, check.scale) == ("regression", 64 * 2**20, "difference")
    assert verdict.status == 1


def test_noise_is_inconclusive_and_says_what_could_be_found(tmp_path: Path) -> None:
    verdict = run(tmp_path, {"spread": 0.08}, {"spread": 0.08}, latency="3%", max_pairs=10)
    check = next(check for check in verdict.checks if check.metric == THROUGHPUT)
    assert check.outcome == "inconclusive"
    assert check.smallest is not None
    assert check.smallest > 0.03
    assert verdict.status == 3


def test_fresh_workers_take_turns_in_the_order_a_b_b_a(tmp_path: Path) -> None:
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()[1:]]
    assert [line["case"] for line in lines[:2]] == ["full: train", "full: serve"]
    assert {len(line[which]["repeats"]) for line in lines for which in ("base", "head")} == {6}
    assert [int((tmp_path / which / "out" / which / "workers").read_text()) for which in ("base", "head")] == [6, 6]


def test_what_was_measured_is_taken_again_after_an_interruption(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert [check.base_values for check in again.checks] == [check.base_values for check in first.checks]
    assert (tmp_path / "base" / "out" / "base" / "workers").read_text() == "6"


def test_another_revision_is_measured_anew(tmp_path: Path) -> None:
    run(tmp_path)
    verdict = run(
        tmp_path,
        head={"seconds": {THROUGHPUT: 0.0106, LATENCY: 0.002}, "prepared": {"statuses": {"x": "ok"}}},
        repeats=7,
    )
    assert verdict.status == 1


def test_a_pair_that_a_hypervisor_spoiled_is_taken_again_and_in_the_end_doubted(tmp_path: Path) -> None:
    verdict = run(tmp_path, head={"steal": 0.5})
    assert "the hypervisor took 33% of the CPU time" in verdict.doubts[0]
    assert verdict.status == 3
    assert outcomes(verdict)[THROUGHPUT] == "inconclusive"


def test_threads_that_wait_do_not_spoil_cpu_time(tmp_path: Path) -> None:
    """Every worker here says that it was contended."""
    assert not run(tmp_path).doubts


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"fail": "prepare"}, r"head \(a head\): ValueError: no such recipe"),
        ({"fail": "silent"}, "has no methodbench with a gate"),
        ({"fail": "hello"}, "ImportError: no torch"),
        ({"fail": "case"}, "lora: train: RuntimeError: out of memory"),
        ({"fail": "die"}, "its process ended"),
        ({"works": 3, "then": "die"}, "its process ended"),
        ({"prepared": {"protocol": 99}}, "speaks protocol 99, and this one 1"),
        ({"prepared": {"suite": {**SUITE, "budget": {"steps": 20}}}}, r"budget\.steps is 10 in base and 20 in head"),
        (
            {"prepared": {"suite": {**SUITE, "budget": {"steps": 10, "new": 1}}}},
            r"budget\.new is None in base and 1 in head",
        ),
        ({"prepared": {"suite": {**SUITE, "model": "other"}}}, "model is minilm in base and other in head"),
    ],
)
def test_a_side_that_cannot_run_is_no_verdict(tmp_path: Path, head: dict[str, Any], said: str) -> None:
    with pytest.raises(GateError, match=said):
        run(tmp_path, head=head)


def test_each_side_must_import_what_was_asked_for(tmp_path: Path) -> None:
    from dataclasses import replace

    base = side(tmp_path / "base", "base", modules={"mine": "/base/mine/__init__.py"})
    head = side(tmp_path / "head", "head", modules={"mine": "/base/mine/__init__.py"})
    base, head = replace(base, packages={"mine": "/base/mine"}), replace(head, packages={"mine": "/head/mine"})
    with pytest.raises(GateError, match=r"its module mine came from /base/mine/__init__.py, not from /head/mine"):
        gate(base, head, GateTable.model_validate(GATE), tmp_path, lambda line: None)


def test_each_worker_must_import_what_was_asked_for_too(tmp_path: Path) -> None:
    from dataclasses import replace

    sides = []
    for which, imported in (("base", "/base/mine/__init__.py"), ("head", "/base/mine/__init__.py")):
        modules = {"mine": f"/{which}/mine/__init__.py"}
        made = side(tmp_path / which, which, modules=modules, imports={"mine": imported})
        sides.append(replace(made, packages={"mine": f"/{which}/mine"}))
    with pytest.raises(GateError, match=r"head \(a head\): its module mine came from /base/mine/__init__.py"):
        gate(sides[0], sides[1], GateTable.model_validate(GATE), tmp_path, lambda line: None)


def test_sides_on_different_machines_are_inconclusive_and_other_versions_are_noted(tmp_path: Path) -> None:
    verdict = run(tmp_path, head={"machine": {"cpu": "another CPU", "versions": {"torch": "2.14.0"}}})
    assert verdict.doubts == ("the sides ran on different machines: cpu is a CPU in base and another CPU in head",)
    assert verdict.notes == ("torch is 2.13.0 in base and 2.14.0 in head",)
    assert verdict.status == 3


def test_what_cannot_take_turns_is_skipped_with_its_reason(tmp_path: Path) -> None:
    from dataclasses import asdict

    cases = [{**asdict(CASES[0]), "refused": "2 processes divide its training"}, asdict(CASES[1])]
    verdict = run(tmp_path, {"prepared": {"cases": cases}}, {"prepared": {"cases": cases}})
    check = next(check for check in verdict.checks if check.metric == THROUGHPUT)
    assert (check.outcome, check.reason) == ("skipped", "2 processes divide its training")


def test_where_memory_holds_one_side_alone_they_alternate(tmp_path: Path) -> None:
    verdict = run(tmp_path, {"machine": {"memory": 2**30}}, {"machine": {"memory": 2**30}})
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()[1:]]
    assert {line["turns"] for line in lines} == {False}
    assert verdict.status == 0


@pytest.mark.parametrize("seconds", [0.0, -0.01, float("nan")])
def test_a_time_that_is_none_gives_no_verdict(tmp_path: Path, seconds: float) -> None:
    verdict = run(tmp_path, head={"seconds": {THROUGHPUT: seconds, LATENCY: 0.002}})
    check = next(check for check in verdict.checks if check.metric == THROUGHPUT)
    assert (check.outcome, check.reason) == ("inconclusive", "it could not be measured any more")
    assert verdict.status == 3


def test_only_what_is_gated_is_measured(tmp_path: Path) -> None:
    run(tmp_path)
    asked = json.loads((tmp_path / "head" / "out" / "head" / "asked.json").read_text())
    assert asked["measure"] == {"latency": [], "quality": True, "flops": False, "size": True}
    assert asked["suite"] == {
        key: value for key, value in SUITE.items() if key != "tune"
    }  # each side at the same rates


def test_grown_names_phases_and_operators_by_what_they_added() -> None:
    base = {"phase: forward and backward": 3.0, "phase: forward": 1.0, "phase: update": 0.5, "mm": 2.0, "add": 1.0}
    head = {
        "phase: forward and backward": 4.0,
        "phase: forward": 1.0,
        "phase: update": 0.5,
        "mm": 2.05,
        "add": 1.0,
        "sort": 0.9,
    }
    found = grown({"base": base, "head": head})
    assert [(each.name, each.base, each.head) for each in found] == [("phase: backward", 2.0, 3.0), ("sort", 0.0, 0.9)]
