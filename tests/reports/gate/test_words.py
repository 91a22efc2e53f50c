from dataclasses import replace

import pytest

from reports.gate import words
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import LATENCY, MEMORY, QUALITY, SKIPPED, SLOWER


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (SLOWER, "5.1 % slower (4.3 to 5.9 %)"),
        (LATENCY, "2.0 % faster (−1.0 to 5.0 %)"),  # from -5 % to 1 % worse
        (MEMORY, "1.00 MB larger"),
        (QUALITY, "0.20 points better (−0.20 to 0.60 points)"),
        (replace(QUALITY, change=0.021, interval=(0.011, 0.031)), "2.1 points worse (1.1 to 3.1 points)"),
        (replace(MEMORY, scale="ratio", change=-0.25), "25.0 % smaller"),
        (replace(MEMORY, change=0.0, interval=(0.0, 0.0)), "the same"),
        (SKIPPED, ""),
    ],
)
def test_a_change_in_words(check, found):
    assert words.found_by(check) == found


def test_the_headline_of_a_regression_says_which_how_much_and_what_is_allowed():
    assert words.headline(verdicts.of(SLOWER, MEMORY)) == (
        "Regression: `lora` is 5.1 % slower (4.3 to 5.9 %) in training throughput; 3% is allowed."
    )
    assert words.headline(verdicts.of(SLOWER, MEMORY, SLOWER)).endswith(" 1 more of 3 checks regressed.")


def test_the_headline_of_a_pass_counts_what_was_skipped():
    text = words.headline(verdicts.of(MEMORY, SKIPPED, QUALITY))
    assert text == "Pass: nothing became worse than is allowed, in 2 checks; 1 check skipped."


def test_the_headline_of_what_cannot_be_told_says_why():
    assert words.headline(verdicts.of(LATENCY, MEMORY)) == (
        "Inconclusive: `lora`: latency 1×16 cannot be told: the smallest detectable change is larger than the tolerance "
        "(measured: 2.0 % faster (−1.0 to 5.0 %); smallest detectable: 4.4 %; allowed: 3%)."
    )
    assert words.headline(verdicts.of()) == "Inconclusive: nothing was checked."
    assert words.headline(verdicts.of(SKIPPED)).startswith("Inconclusive: `full`: FLOPs a step was skipped: the base")
    assert words.headline(verdicts.of(MEMORY, doubts=("The clock changed.",))) == "Inconclusive: The clock changed."


def test_with_a_doubt_no_check_passes_and_a_regression_stays_one():
    verdict = verdicts.of(MEMORY, SLOWER, doubts=("The clock changed.",))
    assert [words.outcome(verdict, check) for check in verdict.checks] == ["inconclusive", "regression"]
    assert words.reason(verdict, MEMORY) == "The clock changed"


def test_checks_come_in_the_order_of_what_matters():
    ends = [check.outcome for check in words.ordered(verdicts.VERDICT)]
    assert ends == ["regression", "inconclusive", "pass", "pass", "skipped"]


def test_where_the_time_went_is_the_difference():
    assert words.grown(SLOWER)[0] == ("aten::mm", "1.00 ms", "1.50 ms", "+500 µs")


def test_what_cannot_be_printed_is_escaped_and_what_is_long_is_cut():
    assert words.printable("a\n\x1b[0m\u2028é") == "a\\n\\x1b[0m\\u2028é"
    assert words.printable("\ud800") == "\\ud800"
    assert len(words.printable("x" * 1_000)) == 200
    assert len(words.escaped("x" * 1_000)) == 1_000
