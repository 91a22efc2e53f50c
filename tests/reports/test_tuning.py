"""How reports tell of learning rates and of scores while training."""

from dataclasses import replace

import pytest

from bench.compare.compare import compare
from bench.compare.tuning import Trial, Tuning
from bench.metrics.registry import metric
from reports import render_comparisons, tuning
from tests import synthetic
from tests.synthetic import Method

TRIALS = (Trial(1e-4, 0.5, "ok", 10.0), Trial(1e-3, 0.7, "ok", 11.0), Trial(1e-2, None, "diverged", 3.0))
RECIPES = {"full": Method("full"), "head": Method("head", 0.5)}


def tuned(trials=TRIALS, lr=1e-3):
    (found,) = compare(synthetic.records(RECIPES, seeds=(0, 1)))
    return replace(
        found,
        tunings=(Tuning("full", metric("accuracy"), 0, trials, lr), Tuning("head", metric("accuracy"), 0, trials, lr)),
    )


def validated(curves):
    """`curves` of full, a seed each: the accuracy by step."""
    records = synthetic.records(RECIPES, seeds=tuple(range(len(curves))))
    for seed, curve in enumerate(curves):
        records.nodes[f"minilm/stdlib-topics/{seed}/full"]["training"]["validation"] = [
            {"step": step, "metrics": {"accuracy": value}} for step, value in curve.items()
        ]
    return compare(records)[0]


@pytest.mark.parametrize("format", ["html", "md", "table"])
def test_every_report_says_whether_rates_were_tuned(format):
    (untuned,) = compare(synthetic.records(RECIPES))
    assert "Learning rates were not tuned" in " ".join(render_comparisons([untuned], format).split())
    text = " ".join(render_comparisons([tuned()], format).split())
    assert "Learning rates were not tuned" not in text
    assert "the best of 3 learning rates by the validation accuracy, each tried once with seed 0" in text


def test_what_trains_nothing_says_nothing_of_rates():
    (found,) = compare(synthetic.records(RECIPES))
    assert tuning.said(replace(found, rows=tuple(replace(row, losses={}) for row in found.rows))) == ""


def test_the_cost_is_that_of_all_trials():
    assert "The trials took 48.0 s in all." in tuning.said(tuned())  # twice 10 + 11 + 3


def test_the_table_has_every_rate_with_its_score_or_its_end():
    assert tuning.table(tuned())[0] == [
        "full",
        "0.001",
        "0.700",
        "0.0001: 0.500, 0.001: 0.700, 0.01: diverged",
        "24.0 s",
    ]
    assert "0.0001: 0.500, 0.001: 0.700, 0.01: diverged" in render_comparisons([tuned()], "md")


def test_the_figure_has_a_point_a_rate_that_ended_ok_and_marks_the_chosen():
    points = tuning.tuned(tuned()).spec["datasets"]["tuning"]
    assert [(point["lr"], point["value"], point["chosen"]) for point in points if point["name"] == "full"] == [
        (1e-4, 0.5, False), (1e-3, 0.7, True),
    ]  # fmt: skip
    assert tuning.tuned(validated([{}])) is None


def test_where_the_best_is_at_the_edge_the_report_says_which_rates_to_add():
    from bench.compare.doubts import AtEdge
    from reports import sentences

    edge = tuned(TRIALS[:2]).tunings[0]
    assert sentences._doubt(AtEdge(edge)) == (
        "The best learning rate of `full`, 0.001, is the highest that was tried, so that a better one may lie beyond: add 0.01 "
        "and 0.1 to `lr` of `[tune]`."
    )


def test_a_validation_curve_is_the_mean_over_seeds():
    points = tuning.validated(validated([{2: 0.5, 4: 0.7}, {2: 0.7}])).spec["datasets"]["validation"]
    assert [(point["step"], point["value"]) for point in points] == [(2, 0.6), (4, 0.7)]
    assert tuning.validated(validated([{}])) is None


def test_steps_of_a_curve_go_on_over_the_trainings_of_a_recipe():
    records = synthetic.records({"half FFN": synthetic.METHODS["half FFN"]}, seeds=(0,), steps=10)
    nodes = [node for node in records.nodes.values() if node.get("training")]
    for node in nodes:
        node["training"]["validation"] = [{"step": 2, "metrics": {"accuracy": 0.5}}]
    (row,) = compare(records)[0].rows
    assert [step for step, _ in row.validation[0]] == [2, 12]
