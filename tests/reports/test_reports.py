import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

import reports
from bench.compare import compare
from bench.compare.compare import Comparisons
from bench.record import reading
from bench.record.store import Store
from reports import figures, words
from reports.table import Terminal
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
    with pytest.raises(
        ValueError, match="unknown format `doc`; known: table, md, html, json, csv, tex, and as files parquet"
    ):
        reports.render(folder, "doc")
    with pytest.raises(ValueError, match="unknown format"):
        reports.write(folder, ["md", "doc"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_written_where_asked(folder, tmp_path):
    out = tmp_path / "new" / "out"
    written = reports.write(folder, ["html", "md", "json", "csv", "table", "tex"], out)
    suffixes = ["html", "md", "json", "csv", "txt", "tex"]
    assert [path.name for path in written] == [f"report.{suffix}" for suffix in suffixes]
    assert json.loads(written[2].read_text(encoding="utf-8"))["recipes"]
    assert b"\r\r\n" not in written[3].read_bytes()


def test_a_torn_line_is_reported_and_the_rest_is_read(folder):
    file = folder / "records.jsonl"
    file.write_text(file.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    text = reports.render(folder, "md")
    assert "this line is left out" in text
    assert "int8" in text


def test_the_terminal_is_written_to(folder, capsys):
    terminal = Terminal()
    reports.write(folder, [], folder, terminal)
    terminal.print()
    assert "int8" in capsys.readouterr().out


def test_a_command_reads_records_and_makes_comparisons_once(folder, tmp_path, monkeypatch):
    made, lines = [], []
    comparison, line = compare._comparison, reading.line
    monkeypatch.setattr(compare, "_comparison", lambda *given: made.append(given) or comparison(*given))
    monkeypatch.setattr(reading, "line", lambda record: lines.append(record) or line(record))
    monkeypatch.setattr(figures, "runtime", lambda: "")
    terminal = Terminal()
    records = reading.read(folder)
    Store(folder).append({**records.runs[0], "title": "another"})
    reports.write(records.read_on(), ["html", "md", "csv", "json", "table", "svg"], tmp_path / "out", terminal)
    assert len(lines) == (folder / "records.jsonl").read_bytes().count(b"\n")
    assert len(made) == 2
    assert "another" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize(("recipes", "tasks"), [(3000, 1), (40, 60)])
def test_a_page_has_room_for_so_much(recipes, tasks, monkeypatch):
    monkeypatch.setattr(words, "MOST", 600_000)
    monkeypatch.setattr(figures, "runtime", lambda: "")
    long = synthetic.Method("full", 0.7, status="failed", reason="why " * 50, log="line\n" * 500, seeds=(0,))
    methods = {f"recipe {number}": synthetic.Method(f"full(lr={number + 1})", 0.7) for number in range(recipes)}
    methods["recipe 7"] = long
    subjects = [("minilm", f"task {number}") for number in range(tasks)]
    found = Comparisons(synthetic.records(methods, (0,), subjects, items=2, steps=2))
    for format, most in (("html", 600_000), ("md", 600_000)):
        text = reports.render_comparisons(found, format)
        assert most / 4 < len(text.encode()) <= most
        assert "more recipes are not" in text
        assert "methodbench report DIR --format csv" in text
    assert reports.render_comparisons(found, "csv").count(",final_loss,") == recipes * tasks - tasks


def test_a_page_counts_the_comparisons_that_it_has_no_room_for(monkeypatch):
    monkeypatch.setattr(words, "MOST", 70_000)
    monkeypatch.setattr(figures, "runtime", lambda: "")
    methods = {"full": synthetic.Method("full")}
    found = Comparisons(
        synthetic.records(methods, (0,), [("minilm", f"task {n}") for n in range(400)], items=2, steps=2)
    )
    for format in ("html", "md"):
        text = reports.render_comparisons(found, format)
        assert len(text.encode()) <= 70_000
        assert "more comparisons are not" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_time_is_linear_and_memory_is_not(tmp_path, monkeypatch):
    """Of four times the records: no more than six times the time, and not twice the memory that they take in the end."""
    monkeypatch.setattr(figures, "runtime", lambda: "")
    took = {}
    for nodes in (1500, 6000):
        folder = synthetic.write(synthetic.sized(nodes), tmp_path / str(nodes))
        tracemalloc.start()
        started = time.process_time()
        reports.write(folder, ["html", "md"], folder)
        took[nodes] = time.process_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert took[6000][0] < 6 * took[1500][0]
    assert took[6000][1] < 2 * took[1500][1]
