import json

import pytest

from reports.gate import benchmark_action
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import LATENCY, SKIPPED, SLOWER

NEEDED = {"name": str, "value": int | float, "unit": str}
ALLOWED = {**NEEDED, "range": str, "extra": str}
"""Source: the action's README, on custom benchmarks."""


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize(
    "verdict", [verdicts.VERDICT, verdicts.hostile(), verdicts.many()], ids=["plain", "hostile", "many"]
)
def test_the_schema_is_the_actions(verdict, better):
    found = json.loads(benchmark_action.entries(verdict, better))
    assert len(found) == sum(check.better == better and check.head is not None for check in verdict.checks)
    for entry in found:
        assert set(NEEDED) <= set(entry) <= set(ALLOWED)
        assert all(isinstance(value, ALLOWED[key]) for key, value in entry.items())
    assert len({entry["name"] for entry in found}) == len(found)


def test_a_direction_a_file_with_the_heads_values():
    (smaller,) = json.loads(benchmark_action.entries(verdicts.of(SLOWER, LATENCY), "lower"))
    (bigger,) = json.loads(benchmark_action.entries(verdicts.of(SLOWER, LATENCY), "higher"))
    assert (smaller["name"], smaller["value"], smaller["unit"]) == ("lora: latency_1x16", 0.0098, "s")
    # Six values: their whole range is the 95 % interval of the median, from 93 to 98.
    assert (bigger["name"], bigger["value"], bigger["range"]) == ("lora: train_tokens_per_second", 95.5, "± 2.5")
    assert "5.1 % slower (4.3 to 5.9 %)" in bigger["extra"]


def test_nothing_to_say_is_no_file():
    assert benchmark_action.entries(verdicts.of(SKIPPED), "lower") == ""
    assert benchmark_action.entries(verdicts.of(LATENCY), "higher") == ""
