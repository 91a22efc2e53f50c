import pytest

from bench.metrics import registry
from bench.suite.tolerance import Tolerance, tolerance


@pytest.mark.parametrize(
    ("metric", "text", "expected"),
    [
        ("train_tokens_per_second", "3%", Tolerance("ratio", 0.03, "3%")),
        ("latency_8x32", "2.5 %", Tolerance("ratio", 0.025, "2.5 %")),
        ("train_peak_bytes", "16 MiB", Tolerance("difference", 16 * 2**20, "16 MiB")),
        ("size_on_disk", "1.5 MB", Tolerance("difference", 1.5e6, "1.5 MB")),
        ("size_on_disk", "1%", Tolerance("ratio", 0.01, "1%")),
        ("accuracy", "0.5 points", Tolerance("difference", 0.005, "0.5 points")),
        ("perplexity", "0.1 tokens", Tolerance("difference", 0.1, "0.1 tokens")),
    ],
)
def test_a_tolerance_is_in_the_metrics_unit(metric: str, text: str, expected: Tolerance) -> None:
    assert tolerance(metric, text, registry.metric(metric)) == expected
