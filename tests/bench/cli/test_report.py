"""``methodbench report``."""

import subprocess

from tests import synthetic
from tests.command import METHODBENCH, methodbench


def test_a_report_of_broken_records_says_so(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    with (out / "records.jsonl").open("a") as file:
        file.write('{"schema": 1, "kind": "node", "id": "torn')
    assert "left out" in methodbench("report", out, "--format", "md")
    with (out / "records.jsonl").open("a") as file:
        file.write('\n{"schema": 99, "kind": "node"}\n')
    assert "upgrade" in methodbench("report", out, status=2)


def test_a_report_into_a_closed_pipe_is_quiet(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    done = subprocess.run(
        f"{METHODBENCH} report {out} --format html | head -c 10", shell=True, capture_output=True, text=True
    )
    assert done.stdout == "<!doctype "
    assert done.stderr == ""


def test_a_report_that_cannot_be_written_says_where(suite, tmp_path):
    out = tmp_path / "out"
    methodbench("run", suite('full = "full"'), "--out", out)
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    assert "report.html: Is a directory" in methodbench("report", out, status=2)


def test_what_is_text_is_printed_and_what_is_not_is_written_into_the_folder(tmp_path):
    synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    assert "\\begin{tabular}" in methodbench("report", "out", "--format", "tex", cwd=tmp_path)
    assert "int8" in methodbench("report", "out", "--format", "table", cwd=tmp_path)
    said = methodbench("report", "out", "--format", "svg", "--width", "3.3", cwd=tmp_path).splitlines()
    assert said[1] == "wrote out/figure-accuracy-and-training-throughput.svg"
    assert 'width="3.3in"' in (tmp_path / said[1].removeprefix("wrote ")).read_text(encoding="utf-8")
    assert "'3.3', '6.9'" in methodbench("report", "out", "--format", "svg", "--width", "4", cwd=tmp_path, status=2)


def test_parquet_is_written(tmp_path):
    synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    assert methodbench("report", "out", "--format", "parquet", cwd=tmp_path) == "wrote out/report.parquet\n"


def test_what_others_measured_stands_apart(tmp_path):
    synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    theirs = '{"results": {"piqa": {"acc,none": 0.6}}, "config": {}, "lm_eval_version": "0.4.13"}'
    (tmp_path / "theirs.json").write_text(theirs)
    said = methodbench("report", "out", "--with", "theirs.json", cwd=tmp_path)
    assert said == "wrote out/report.html\nwrote out/report.md\n"
    assert "Measured by others" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "lm-eval 0.4.13, theirs.json" in methodbench(
        "report", "out", "--with", "theirs.json", "--format", "md", cwd=tmp_path
    )
    wrong = methodbench("report", "out", "--with", "theirs.json", "--with", "theirs.json", cwd=tmp_path, status=2)
    assert wrong == "methodbench: error: theirs.json: it is given twice; give it once\n"
    assert "md, html, json, csv have" in " ".join(
        methodbench("report", "out", "--with", "theirs.json", "--format", "tex", cwd=tmp_path, status=2).split()
    )


def test_the_form_of_pefts_method_comparison_is_written(tmp_path):
    synthetic.write(synthetic.records(seeds=(0,)), tmp_path / "out")
    said = methodbench("report", "out", "--format", "peft", cwd=tmp_path).splitlines()
    assert said[0] == "wrote out/peft/minilm--stdlib-topics--full--full-seed0.json"
    assert all((tmp_path / line.removeprefix("wrote ")).is_file() for line in said)
