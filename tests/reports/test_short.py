import pytest

from bench.compare.compare import compare
from reports import short
from tests import synthetic
from tests.synthetic import Method


@pytest.fixture(scope="module")
def comparison():
    (found,) = compare(synthetic.records(contended=("ia3",)))
    return found


def cells(comparison, name):
    row = next(row for row in comparison.rows if row.name == name)
    return list(short.cells(row, short.metrics(comparison), comparison.primary, lambda change: f"({change.verdict})"))


def test_there_are_seven_columns_with_the_names_and_quality_is_first(comparison):
    assert len(short.metrics(comparison)) == short.COLUMNS - 1
    assert short.metrics(comparison)[0] == comparison.primary


def test_the_baseline_has_figures_and_others_ratios(comparison):
    assert cells(comparison, "full")[:3] == ["0.757 ± 0.011", "1,812 tokens/s", "774 MB"]
    assert cells(comparison, "nf4")[0] == "0.726 ± 0.011 (worse)"
    assert cells(comparison, "nf4")[-1] == "0.58× (better)"
    assert cells(comparison, "ensemble of 8") == ["–"] * 6


def test_a_timing_on_a_busy_machine_is_marked(comparison):
    assert [cell.endswith(" ⚠") for cell in cells(comparison, "ia3")] == [False, True, False, True, False, False]


def test_how_a_recipe_ended_has_its_reason_cut_to_what_a_table_has_room_for(comparison):
    ended = {row.name: short.ending(row) for row in comparison.rows}
    assert ended["full"] == ""
    assert ended["ensemble of 8"] == "oom: needed more than 4.0 GB"
    methods = {"full": Method("full"), "bad": Method("lora", status="failed", reason="why " * 100)}
    (found,) = compare(synthetic.records(methods, (0,), items=4, steps=2))
    assert short.ending(found.rows[1]) == f"failed: {('why ' * 100)[:200]} …"
    silent = {"full": Method("full"), "bad": Method("lora", status="failed")}
    (found,) = compare(synthetic.records(silent, (0,), items=4, steps=2))
    assert short.ending(found.rows[1]) == "failed: no reason recorded"
