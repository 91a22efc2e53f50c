"""What is written where, and what a step of a GitHub workflow gets."""

import pytest

from reports import gate
from reports.gate import markdown
from tests.reports.gate import verdicts
from tests.reports.gate.verdicts import MEMORY

ALL = [
    "gate.md",
    "junit.xml",
    "benchmark-smaller.json",
    "benchmark-bigger.json",
    "bencher.json",
    "pyperf-base.json",
    "pyperf-head.json",
]


def test_every_format_is_a_file(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert gate.write(verdicts.VERDICT, folder) == [folder / name for name in ALL]
    assert sorted(file.name for file in folder.iterdir()) == sorted(ALL)


def test_a_format_without_anything_to_say_leaves_no_file_of_an_earlier_verdict(tmp_path):
    gate.write(verdicts.VERDICT, tmp_path)
    found = gate.write(verdicts.of(MEMORY), tmp_path)
    assert {file.name for file in found} == {"gate.md", "junit.xml", "benchmark-smaller.json", "bencher.json"}
    assert set(tmp_path.iterdir()) == set(found)


@pytest.mark.parametrize("verdict", [verdicts.hostile(), verdicts.many()], ids=["hostile", "many"])
def test_names_and_numbers_of_all_sorts_are_written(verdict, tmp_path):
    assert [file.name for file in gate.write(verdict, tmp_path)] == ALL
    assert (tmp_path / "gate.md").stat().st_size <= markdown.COMMENT


def test_elsewhere_than_on_github_nothing_is_printed(tmp_path, capsys):
    gate.on_github(verdicts.VERDICT, {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")})
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_a_step_gets_annotations_and_the_summary_after_what_is_in_it(tmp_path, capsys):
    file = tmp_path / "summary"
    file.write_text("# Mine\n")
    gate.on_github(verdicts.VERDICT, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(file)})
    assert capsys.readouterr().out.startswith("::error title=Regression%3A lora")
    assert file.read_text() == "# Mine\n" + markdown.page(verdicts.VERDICT)


@pytest.mark.parametrize("already", [1_000_000, 2**20 - 10])
def test_a_summary_stays_within_what_github_shows_of_a_step(already, tmp_path):
    file = tmp_path / "summary"
    file.write_text("x" * already)
    gate.on_github(verdicts.many(), {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(file)})
    assert file.stat().st_size <= 2**20
    assert ("left out here" in file.read_text()) == (already == 1_000_000)


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    gate.on_github(verdicts.of(MEMORY), {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert capsys.readouterr().out == "::warning title=methodbench::the summary was not written, Is a directory\n"
