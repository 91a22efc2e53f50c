"""The metrics that scores by lm-eval are."""

import pytest

from bench.metrics import registry
from bench.metrics.families.lm_eval import column

RECORD = {"lm_eval": {"scores": {
    "hellaswag_acc_norm": {"value": 0.25}, "gsm8k_strict_match_exact_match": {"value": 0.5}, "wikitext_word_perplexity": {"value": 20.0},
}}}  # fmt: skip


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (("hellaswag", "acc_norm", "none"), "hellaswag_acc_norm"),
        (("gsm8k", "exact_match", "strict-match"), "gsm8k_strict_match_exact_match"),
        (("AraDiCE-x.1", "acc", "none"), "aradice_x_1_acc"),
    ],
)
def test_a_columns_name_has_the_task_the_filter_and_the_metric(of, name):
    assert column(*of) == name


def test_each_recorded_score_is_a_metric_and_the_same_by_its_name():
    found = [metric for metric in registry.measured([RECORD, {}]) if metric.name.startswith("lm_eval_")]
    assert [(metric.name, metric.value([{}, RECORD])) for metric in found] == [
        ("lm_eval_hellaswag_acc_norm", 0.25),
        ("lm_eval_gsm8k_strict_match_exact_match", 0.5),
        ("lm_eval_wikitext_word_perplexity", 20.0),
    ]
    assert all(registry.metric(metric.name) is metric for metric in found)


@pytest.mark.parametrize(
    ("name", "unit", "better"),
    [
        ("lm_eval_hellaswag_acc_norm", "fraction", "higher"),
        ("lm_eval_wikitext_word_perplexity", "words", "lower"),
        ("lm_eval_wikitext_bits_per_byte", "bits", "lower"),
        ("lm_eval_wmt_bleu", "points", "higher"),
    ],
)
def test_unit_and_direction_are_those_of_its_metric(name, unit, better):
    metric = registry.metric(name)
    assert (metric.unit, metric.better, metric.family) == (unit, better, "quality")


def test_where_the_last_stage_has_no_score_there_is_none():
    assert registry.metric("lm_eval_hellaswag_acc_norm").value([RECORD, {}]) is None
