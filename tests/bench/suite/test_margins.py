"""The ``[compare]`` table: margins in their units, and what is said of a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from bench.metrics import registry
from bench.suite.margins import Margins
from bench.suite.suite import Suite, SuiteError, of


def suite(**compare: Any) -> Suite:
    return of(
        {"model": "minilm", "task": "stdlib-topics", "recipes": {"full": "full"}, "compare": compare}, "own.toml: "
    )


def test_margins_are_a_point_of_quality_and_two_percent_of_costs_by_default() -> None:
    assert suite().compare.margins() == Margins(0.01, 0.02)


def test_margins_are_declared_in_their_units() -> None:
    found = suite(margin="0.5 points", cost_margin="5%", perplexity="0.1 tokens", macro_f1="2 points").compare.margins()
    assert found == Margins(0.005, 0.05, {"perplexity": 0.1, "macro_f1": 0.02})


@pytest.mark.parametrize(
    ("metric", "margin"),
    [
        ("accuracy", 0.01),
        ("bits_per_byte", 0.02),  # 1 % of a baseline of 2 bits
        ("perplexity", 0.1),
        ("train_tokens_per_second", 0.02),
        ("size_on_disk", 0.02),
    ],
)
def test_each_metric_has_a_margin(metric: str, margin: float) -> None:
    assert Margins(own={"perplexity": 0.1}).of(registry.metric(metric), 2.0) == pytest.approx(margin)


def test_a_record_gives_back_what_it_was_given() -> None:
    margins = Margins(0.005, 0.05, {"perplexity": 0.1})
    assert Margins.recorded(margins.record()) == margins
    assert Margins.recorded({}) == Margins()


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ({"margin": "1%"}, "compare: margin: its tolerance is in points, as in \"0.5 points\", found '1%'"),
        ({"margin": 1}, "compare.margin: input should be a valid string, found 1"),
        ({"cost_margin": "2 points"}, "cost_margin: a percentage below 100"),
        ({"perplexity": "3%"}, "perplexity: its tolerance is in tokens"),
        (
            {"perplexty": "0.1 tokens"},
            "perplexty: no metric of quality is called so, nor a setting of [compare]; did you",
        ),
        ({"size_on_disk": "3%"}, "size_on_disk: no metric of quality is called so"),
    ],
)
def test_a_mistake_is_named_with_its_mend(compare: dict[str, Any], said: str) -> None:
    with pytest.raises(SuiteError, match=r"own\.toml: compare") as error:
        suite(**compare)
    assert said in str(error.value)
