import pytest

from bench.metrics.registry import metric
from bench.record.errors import RecordError
from reports.exchange import lm_eval, read
from tests.reports.exchange.conftest import LM_EVAL


def test_a_task_is_a_row_and_each_score_has_our_metric(put):
    hellaswag, gsm8k, wikitext = read([put(LM_EVAL)])
    assert (hellaswag.version, hellaswag.date, hellaswag.machine) == ("0.4.13", "2026-07-15", "cuda:0")
    assert (hellaswag.model, hellaswag.task, gsm8k.task, wikitext.task) == (
        "EleutherAI/pythia-14m", "hellaswag, 0-shot", "gsm8k, 5-shot", "wikitext",
    )  # fmt: skip
    assert [(each.name, each.value, each.unit, each.metric) for each in hellaswag.values] == [
        ("acc", 0.42, "fraction", "lm_eval_hellaswag_acc"),
        ("acc_norm", 0.55, "fraction", "lm_eval_hellaswag_acc_norm"),
    ]
    assert [(each.name, each.metric) for each in gsm8k.values] == [
        ("exact_match,strict-match", "lm_eval_gsm8k_strict_match_exact_match")
    ]
    assert [each.unit for each in wikitext.values] == ["words"]
    assert all(metric(value.metric).unit == value.unit for row in (hellaswag, gsm8k, wikitext) for value in row.values)


def test_the_models_name_from_where_it_is(put):
    config = LM_EVAL["config"] | {"model_args": {"pretrained": "a/b"}}
    assert read([put(LM_EVAL | {"config": config})])[0].model == "a/b"
    assert read([put(LM_EVAL | {"model_name": "c/d"})])[0].model == "c/d"


def test_what_is_optional_may_be_missing(put):
    (row,) = read([put({"results": {"piqa": {"acc,none": 0.6}}, "versions": {}})])
    assert (row.name, row.model, row.version, row.date, row.machine) == ("piqa", "", "", "", "")


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"piqa": {"acc": 0.6}}, "`results.piqa.acc` has no filter behind a comma, as before lm-eval 0.4"),
        ({"piqa": 0.6}, "`results.piqa` is no object, but 0.6"),
        ([], "`results` is no object, but []"),
    ],
)
def test_another_form_names_file_key_and_mend(put, results, said):
    file = put({"results": results, "config": {}})
    with pytest.raises(RecordError) as error:
        read([file])
    assert str(error.value) == f"{file}: {said}; {lm_eval.MEND}"
