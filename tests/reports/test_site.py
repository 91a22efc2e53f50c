import re
from html.parser import HTMLParser

import pytest

from bench.record.errors import RecordError
from reports import figures, site
from tests import synthetic
from tests.synthetic import METHODS, Method


@pytest.fixture(autouse=True)
def no_runtime(monkeypatch):
    monkeypatch.setattr(figures, "runtime", lambda: "")


def links(page):
    found = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.extend(value for key, value in attributes if key in ("href", "src"))

    Links().feed(page)
    return found


def nightly(folder, day, size=1.0):
    records = synthetic.records(
        {name: METHODS[name] for name in ("full", "int8")}, (0,), title="Nightly", items=20, steps=4
    )
    records.runs[0]["started"] = f"2026-11-{day:02}T20:00:00+00:00"
    for node in records.nodes.values():
        node["size"]["bytes"] = int(node["size"]["bytes"] * size) + day
    return synthetic.write(records, folder)


def test_the_index_leads_to_each_folders_report_and_needs_nothing_else(tmp_path):
    folders = [nightly(tmp_path / "in" / name / "results", 1) for name in ("a", "b")]
    folders.append(synthetic.write(synthetic.records(), tmp_path / "in" / "quiet machine"))
    out = tmp_path / "site"
    index, *reports = site.build([*folders, folders[0]], out)
    assert index == out / "index.html"
    assert [path.parent.name for path in reports] == ["results", "results-2", "quiet-machine"]
    page = index.read_text(encoding="utf-8")
    assert sorted(links(page)) == sorted(f"{path.parent.name}/report.html" for path in reports)
    assert "<script" not in page
    assert (out / ".nojekyll").exists()
    assert "2 suites, 1 model, 1 task, 1 machine" in page
    assert "12 of 15 ok" in page
    assert "Beside the baseline <b class=name>full</b>" in page


def test_a_suite_that_ran_often_has_a_history(tmp_path):
    folders = [nightly(tmp_path / f"n{day}", day, 1.0 if day < 7 else 1.5) for day in range(1, 13)]
    page = site.build(folders, tmp_path / "site")[0].read_text(encoding="utf-8")
    assert re.search("full: Size on disk is 50.0% higher, which is worse, from ad80456 on .2026-11-07.", page)
    assert "<td>90.9 MB</td><td>136 MB</td>" in page
    assert "History" not in site.build(folders[:1], tmp_path / "other")[0].read_text(encoding="utf-8")


def test_the_same_recipes_on_two_tasks_have_profiles(tmp_path):
    subjects = [("minilm", "a"), ("minilm", "b")]
    folder = synthetic.write(synthetic.records(subjects=subjects), tmp_path / "in")
    page = site.build([folder], tmp_path / "site")[0].read_text(encoding="utf-8")
    assert page.count("<figure") == 5
    assert "Training memory over 2 tasks" in page
    row = re.search('<th scope="row"><bdi>two GPUs</bdi></th>(.*?)</tr>', page)[1]
    assert re.findall("<td>(.*?)</td>", row) == ["0%", "0%", "0%", "0%"]


def test_a_folder_without_records_is_named_and_nothing_is_written(tmp_path):
    folder = nightly(tmp_path / "in", 1)
    with pytest.raises(RecordError, match="nowhere: no such folder"):
        site.build([folder, tmp_path / "nowhere"], tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\"'&", "x" * 10_000, "שלום \u202e", "{{ 7 * 7 }}"])
def test_names_are_text(tmp_path, name):
    methods = {name: Method("full"), "b": Method("lora", 0.7)}
    records = synthetic.records(methods, (0,), [(name, "a"), (name, "b")], title=name, items=20, steps=4)
    page = site.build([synthetic.write(records, tmp_path / "in")], tmp_path / "site")[0].read_text(encoding="utf-8")
    shown = []

    class Text(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag != "script"

        def handle_data(self, data):
            shown.append(data)

    Text().feed(page)
    assert name.replace("\u202e", "\ufffd") in [text.strip() for text in shown]
