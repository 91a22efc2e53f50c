import re
from dataclasses import replace

from reports.gate import github
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import LATENCY, MEMORY, SKIPPED, SLOWER


def read(line):
    """A workflow command as a runner reads it: kind, title and message.

    Source: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
    """
    kind, title, message = re.fullmatch(r"::(error|warning) title=([^:,\r\n]*)::([^\r\n]*)", line).groups()
    for sign, code in (("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"), ("%", "%25")):
        title = title.replace(code, sign)
        message = message.replace(code, sign) if code not in ("%3A", "%2C") else message
    return kind, title, message


def test_a_regression_is_an_error_and_what_cannot_be_told_a_warning():
    found = [read(line) for line in github.commands(verdicts.VERDICT)]
    assert found[0] == (
        "error",
        "Regression: lora, training throughput",
        "lora is 5.1 % slower (4.3 to 5.9 %) in training throughput; 3% is allowed.",
    )
    assert [kind for kind, *_ in found] == ["error", "warning"]


def test_hostile_names_stay_in_their_command():
    found = [read(line) for line in github.commands(verdicts.hostile())]
    assert [kind for kind, *_ in found] == ["error", "warning", "warning"]
    assert all('a|b <x> & "q"' in message for _, _, message in found)


def test_of_very_many_ten_of_a_kind_are_left_and_the_last_says_how_many():
    found = [read(line) for line in github.commands(verdicts.many())]
    for kind in ("error", "warning"):
        texts = [message for each, _, message in found if each == kind]
        assert len(texts) == 10
        assert texts[-1].startswith("991 more")
    ten = verdicts.of(*[SLOWER] * 10)
    assert not [line for line in github.commands(ten) if "more" in line]


def test_a_pass_says_nothing_and_an_inconclusive_gate_always_something():
    assert github.commands(verdicts.of(MEMORY)) == []
    for verdict in (verdicts.of(), verdicts.of(SKIPPED), verdicts.of(LATENCY), verdicts.of(MEMORY, doubts=("Busy.",))):
        assert [read(line)[0] for line in github.commands(verdict)] == ["warning"]


def test_a_long_name_is_cut():
    (line,) = github.commands(verdicts.of(replace(SLOWER, recipe="x" * 10_000)))
    assert len(line) < 1_000
