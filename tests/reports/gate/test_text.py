from dataclasses import replace

from reports.gate import text
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import LATENCY, MEMORY, SLOWER


def test_all_that_a_reader_needs_is_there():
    found = text.plain(verdicts.VERDICT)
    joined = " ".join(found.split())
    assert found.startswith("Regression: lora is 5.1 % slower (4.3 to 5.9 %) in training throughput;")
    assert "aten::mm 1.00 ms 1.50 ms +500 µs" in joined
    assert "smallest detectable: 4.4 %" in joined
    assert "by wall time" in joined
    assert "One core was idle." in joined
    assert "head: revision ., commit 2222222+changes, python 3.11.7, module bench /head/bench/__init__.py" in joined
    order = [line.split()[-1] for line in found.splitlines() if line.endswith(tuple(text._MARKS))]
    assert order == ["regression", "inconclusive", "pass", "pass", "skipped"]


def test_no_line_is_longer_than_the_terminal_nor_has_it_control_characters():
    for verdict in (verdicts.VERDICT, verdicts.hostile(), verdicts.of(replace(SLOWER, recipe="x" * 1_000))):
        lines = text.plain(verdict).splitlines()
        assert max(map(len, lines)) <= text.WIDTH
        assert all(line.isprintable() for line in lines)


def test_markup_in_names_is_text():
    assert "[red]x[/]" in text.plain(verdicts.of(replace(MEMORY, recipe="[red]x[/]")))


def test_of_very_many_checks_the_first_are_shown_and_the_rest_counted():
    found = text.plain(verdicts.many())
    assert "4,800 more checks in gate.json" in found
    assert found.count("✗ regression") == 200


def test_doubts_are_said():
    found = text.plain(verdicts.of(MEMORY, LATENCY, doubts=("The clock changed.",)))
    assert found.startswith("Inconclusive: The clock changed.")
    assert found.count("? inconclusive") == 2
    assert "⚠ The clock changed." in found


def test_it_is_printed_to_the_terminal(capsys):
    text.show(verdicts.VERDICT)
    assert "Regression" in capsys.readouterr().out
