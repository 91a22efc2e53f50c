"""``methodbench report``."""

import subprocess

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
