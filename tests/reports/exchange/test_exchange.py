import csv
import io
import json

import pytest

import reports
from bench.record.errors import RecordError
from reports import exchange
from tests import synthetic
from tests.reports.exchange.conftest import LM_EVAL, PEFT


def test_several_files_of_several_forms(put):
    rows = exchange.read([put(PEFT, "a.json"), put(LM_EVAL, "b.json")])
    assert [(row.tool, row.file) for row in rows] == [
        ("PEFT method comparison", "a.json"), ("lm-eval", "b.json"), ("lm-eval", "b.json"), ("lm-eval", "b.json"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "it is not JSON"),
        ("", "it is not JSON"),
        ("\x00", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is a list, and is of no form that is known: PEFT's method comparison (run_info"),
        ("{}", "it is empty, and is of no form that is known"),
        ('{"schema": 2, "recipes": []}', "it has the keys recipes, schema, and is of no form that is known"),
        ('{"run_info": {}}', "it has the keys run_info, and is of no form"),
    ],
)
def test_what_is_of_no_form_says_so(put, text, said):
    file = put(text)
    with pytest.raises(RecordError) as error:
        exchange.read([file])
    assert str(error.value).startswith(f"{file}: {said}")


def test_a_file_that_is_not_there_or_no_file_says_so(tmp_path):
    with pytest.raises(RecordError, match=r"nowhere\.json: cannot be read: No such file"):
        exchange.read([tmp_path / "nowhere.json"])
    with pytest.raises(RecordError, match="cannot be read: Is a directory"):
        exchange.read([tmp_path])


def test_the_same_file_twice_is_an_error(put, tmp_path):
    file = put(PEFT)
    with pytest.raises(RecordError, match="it is given twice; give it once"):
        exchange.read([file, tmp_path / ".." / tmp_path.name / "theirs.json"])


def test_what_others_measured_is_in_reports_and_in_no_comparison(put, tmp_path):
    folder = synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    foreign = exchange.read([put(PEFT)])
    alone, both = (json.loads("".join(reports.pieces(folder, "json", rows))) for rows in ((), foreign))
    theirs = both.pop("measured_by_others")
    assert both == alone
    assert (theirs[0]["name"], theirs[0]["tool"], theirs[0]["file"]) == (
        "lora/llama-rank32",
        "PEFT method comparison",
        "theirs.json",
    )
    assert theirs[0]["values"][0] == {"name": "test accuracy", "value": 0.478, "unit": "fraction", "metric": "accuracy"}

    lines = list(csv.DictReader(io.StringIO("".join(reports.pieces(folder, "csv", foreign)))))
    marked = [line for line in lines if line["status"] == "measured by others"]
    assert len(marked) == len(foreign[0].values)
    assert (marked[0]["metric"], marked[0]["value"], marked[0]["verdict"], marked[0]["change"]) == (
        "accuracy",
        "0.478",
        "",
        "",
    )
    assert marked[0]["reasons"] == "PEFT method comparison 0.19.2, 2026-07-15, on NVIDIA L40S, theirs.json"
    assert len(lines) - len(marked) == len(list(csv.DictReader(io.StringIO(reports.render(folder, "csv")))))

    for format in ("md", "html"):
        text = "".join(reports.pieces(folder, format, foreign))
        assert "Measured by others" in text
        assert "it is in no verdict, front or pick" in text
        assert "lora/llama-rank32" in text
        assert "test accuracy (as our accuracy)" in text
        assert "forgetting (as ours)" in text
        assert "Measured by others" not in reports.render(folder, format)


def test_texts_stay_texts(put, tmp_path):
    folder = synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    run = PEFT["run_info"] | {"experiment_name": "<script>alert(1)</script>|`x`\x1b[31m"}
    foreign = exchange.read([put(PEFT | {"run_info": run})])
    assert "\x1b" not in foreign[0].name
    html = "".join(reports.pieces(folder, "html", foreign))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "<script>" not in "".join(reports.pieces(folder, "md", foreign))
