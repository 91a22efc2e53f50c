"""Values as text, and units that no metric may have."""

import pytest

from bench.metrics.units import problem, quantity, show


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


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("8GiB", "B", 8 * 2**30),
        ("8 GB", "B", 8e9),
        ("20ms", "s", 0.02),
        ("20 us", "s", 2e-5),
        ("95%", "fraction", 0.95),
        (".7", "fraction", 0.7),
        ("1,712.5", "tokens/s", 1712.5),
        ("3 tokens/s", "tokens/s", 3.0),
        ("22.7M", "count", 22.7e6),
        ("1e3", "nats", 1000.0),
    ],
)
def test_a_quantity_is_read_in_its_unit(text, unit, value):
    assert quantity(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit"),
    [("0,7", "fraction"), ("8GiB", "s"), ("", "s"), ("nan", "s"), ("inf", "B"), ("-1", "s"), ("1 2", "s")],
)
def test_what_is_no_quantity_is_refused(text, unit):
    with pytest.raises(ValueError, match=r"a number, with .* as in"):
        quantity(text, unit)


@pytest.mark.parametrize("unit", ["fraction", "B", "s", "×", "nats", "count"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_shown_as_none(value, unit):
    assert show(value, unit) == "–"
