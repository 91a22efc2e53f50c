"""Values as text, and units that no metric may have."""

import pytest

from bench.metrics.units import problem, show


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.3751, "×", "0.375×"),
        (4.28, "×", "4.28×"),
        (3.14e-7, "nats", "≈0 nats"),
        (2e-4, "nats", "0.000200 nats"),
    ],
)
def test_small_figures_and_ratios_can_be_read(value, unit, text):
    assert show(value, unit) == text


@pytest.mark.parametrize(
    ("unit", "said"),
    [("ms", "`s`"), ("MB", "`B`"), ("%", "`fraction`"), ("seconds", "`s`"), ("", "is no word"), (" s", "is no word")],
)
def test_a_unit_that_reports_choose_the_prefix_of_is_written_plainly(unit, said):
    assert said in problem(unit)


@pytest.mark.parametrize("unit", ["s", "B", "count", "fraction", "×", "FLOP", "tokens/s", "J", "nats"])
def test_other_words_are_units(unit):
    assert problem(unit) == ""
    assert show(1.0, unit)
