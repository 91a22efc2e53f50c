import json

import pytest

from reports.gate import bencher
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import MEMORY, SKIPPED, SLOWER


@pytest.mark.parametrize(
    "verdict", [verdicts.VERDICT, verdicts.hostile(), verdicts.many()], ids=["plain", "hostile", "many"]
)
def test_the_schema_is_benchers(verdict):
    """Source: https://bencher.dev/bmf.json."""
    found = json.loads(bencher.metrics(verdict))
    assert sum(map(len, found.values())) == sum(check.head is not None for check in verdict.checks)
    for benchmark, measures in found.items():
        assert 0 < len(benchmark) <= 1_024
        for measure, metric in measures.items():
            assert measure
            assert {"value"} <= set(metric) <= {"value", "lower_value", "upper_value"}
            assert all(type(value) is float for value in metric.values())
            assert metric.get("lower_value", metric["value"]) <= metric["value"]
            assert metric.get("upper_value", metric["value"]) >= metric["value"]


def test_values_are_the_heads_with_the_interval_of_their_median():
    found = json.loads(bencher.metrics(verdicts.of(SLOWER, MEMORY)))
    assert found == {
        "lora": {
            "train_tokens_per_second": {"value": 95.5, "lower_value": 93.0, "upper_value": 98.0},
            "size_on_disk": {"value": 1.01e8},
        }
    }


def test_nothing_to_say_is_no_file():
    assert bencher.metrics(verdicts.of(SKIPPED)) == ""
