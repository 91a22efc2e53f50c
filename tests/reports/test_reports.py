import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reports
from tests import synthetic


@pytest.fixture
def folder(tmp_path):
    return synthetic.write(synthetic.records(), tmp_path / "results")


@pytest.mark.parametrize("format", reports.FORMATS)
def test_a_folder_is_rendered_in_every_format(folder, format):
    text = reports.render(folder, format)
    assert "int8" in text
    assert text.endswith("\n") or format == "html"


def test_an_unknown_format_names_the_known_ones(folder, tmp_path):
    with pytest.raises(ValueError, match="unknown format `pdf`; known: table, md, html, json, csv"):
        reports.render(folder, "pdf")
    with pytest.raises(ValueError, match="unknown format"):
        reports.write(folder, ["md", "pdf"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_written_where_asked(folder, tmp_path):
    out = tmp_path / "new" / "out"
    written = reports.write(folder, ["html", "md", "json", "csv", "table"], out)
    assert [path.name for path in written] == ["report.html", "report.md", "report.json", "report.csv", "report.txt"]
    assert json.loads(written[2].read_text(encoding="utf-8"))["recipes"]
    assert b"\r\r\n" not in written[3].read_bytes()


def test_a_torn_line_is_reported_and_the_rest_is_read(folder):
    file = folder / "records.jsonl"
    file.write_text(file.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    text = reports.render(folder, "md")
    assert "this line is left out" in text
    assert "int8" in text


def test_the_terminal_is_written_to(folder, capsys):
    from reports.table import terminal

    terminal(folder)
    assert "int8" in capsys.readouterr().out


def test_reports_import_no_torch(folder):
    code = (
        "import sys, reports\n"
        f"[reports.render({os.fspath(folder)!r}, format) for format in reports.FORMATS]\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_template_comes_along_in_the_package():
    from importlib.resources import files

    assert files("reports").joinpath("templates", "report.html.j2").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.timeout(600)
def test_ten_times_the_records_take_ten_times_as_long_and_little_memory(tmp_path):
    seconds, peaks = {}, {}
    code = (
        "import re, sys, pathlib, reports\n"
        "reports.write(sys.argv[1], ['html', 'md'], sys.argv[2])\n"
        # Not ru_maxrss, which begins with what the parent had at the fork.
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 1e3)"
    )
    for count in (1_000, 10_000):
        synthetic.write(synthetic.sized(count), tmp_path / str(count))
        began = time.perf_counter()
        arguments = [sys.executable, "-c", code, str(tmp_path / str(count)), str(tmp_path / "out")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        seconds[count], peaks[count] = time.perf_counter() - began, float(done.stdout)
    assert seconds[10_000] <= 10 * seconds[1_000]
    assert peaks[10_000] < 500
