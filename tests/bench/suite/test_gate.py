"""The ``[gate]`` table: what may be gated, in which unit, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.metrics import registry
from bench.suite.gate import GateTable
from bench.suite.suite import Suite, SuiteError, load_gate, of


def suite(**gate: Any) -> Suite:
    return of({"model": "minilm", "task": "stdlib-topics", "recipes": {"full": "full"}, "gate": gate}, "gate.toml: ")


def test_short_keys_stand_for_metrics() -> None:
    table = suite(throughput="3%", latency="4%", peak_memory="16 MiB", quality="1 point", size="0 B").gate
    assert table is not None

    def allowed(name: str, primary: str = "accuracy") -> str | None:
        found = table.tolerance_of(registry.metric(name), primary)
        return found and str(found)

    assert allowed("train_tokens_per_second") == "3%"
    assert allowed("prefill_1x16") == allowed("latency_8x32") == "4%"
    assert allowed("train_peak_bytes") == allowed("inference_peak_bytes") == "16 MiB"
    assert allowed("accuracy") == "1 point"
    assert allowed("macro_f1") is None
    assert allowed("step_flops") is None


def test_a_metrics_own_name_goes_before_the_short_key() -> None:
    table = suite(latency="4%", latency_1x16="10%").gate
    assert table is not None
    assert [str(table.tolerance_of(registry.metric(name))) for name in ("latency_1x16", "latency_8x32")] == [
        "10%",
        "4%",
    ]


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({}, "nothing is gated; name a metric"),
        (
            {"troughput": "3%"},
            "troughput: no metric is called so, nor a setting of the gate; did you mean `throughput`?",
        ),
        ({"throughput": "3 MiB"}, "throughput: its tolerance is in %, as in \"3%\", found '3 MiB'"),
        ({"throughput": 3}, "found 3"),
        ({"throughput": "-3%"}, "found '-3%'"),
        ({"throughput": "nan%"}, "found 'nan%'"),
        ({"throughput": "300%"}, "a percentage below 100"),
        ({"accuracy": "3%"}, "accuracy: its tolerance is in points"),
        ({"peak_memory": "3 points"}, "peak_memory: its tolerance is in bytes (B, kB, MB, GB, KiB, MiB, GiB) or %"),
        ({"train_seconds": "3%"}, "train_seconds: it is measured once and has noise"),
        ({"latency": "3%", "margin": "1"}, "margin: a percentage below 100"),
        ({"latency": "3%", "max_pairs": 3}, "gate.max_pairs: input should be greater than or equal to 6, found 3"),
    ],
)
def test_a_mistake_is_named_with_its_mend(gate: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError, match=r"gate\.toml: gate") as error:
        suite(**gate)
    assert said in str(error.value)


def test_the_table_is_in_the_schema_of_suites() -> None:
    from bench.suite.suite import json_schema

    properties = json_schema()["$defs"]["GateTable"]["properties"]
    assert set(properties) == set(GateTable.model_fields)


def test_the_table_is_read_alone_for_the_recipes_may_be_of_a_package_that_is_not_here(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('model = "m"\n[gate]\nthroughput = "3%"\n[recipes]\nx = "full + of_another_package"\n')
    found = load_gate(file)
    assert found is not None
    assert found.allowed() == {"throughput": "3%"}
    file.write_text('[gate]\nthroughput = "3%"\nmax_pairs = 3\n')
    with pytest.raises(SuiteError, match=r"gate\.toml: gate\.max_pairs: input should be greater"):
        load_gate(file)
    file.write_text("")
    assert load_gate(file) is None
