"""What docs/write-a-metric.md tells a newcomer to write is written here, installed, and run."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from bench.cli import catalogue
from bench.compare.compare import compare
from bench.metrics import registry as metrics
from bench.recipe import registry as methods
from bench.tasks import registry as tasks
from bench.testing import jobs
from tests import synthetic
from tests.packages import installed

PAGE = Path(__file__).parents[2] / "docs" / "write-a-metric.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The page's files, each of all its blocks, installed: on the path, with entry points as its pyproject.toml has them."""
    folder = tmp_path_factory.mktemp("site")
    for name, block in re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(block)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with installed(folder, project["entry-points"]):
        yield folder


def test_the_pages_own_test_passes(package):
    module = importlib.import_module("test_more_metrics")
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_they_are_listed_by_their_family(package):
    listed = {entry["name"]: entry["kind"] for entry in catalogue.entries("metrics")}
    assert (
        listed.items() >= {"slowest_step_seconds": "time", "balanced_accuracy": "quality", "updates": "compute"}.items()
    )
    assert "in s; lower is better" in catalogue.page("slowest_step_seconds")["about"]


def test_records_from_before_it_show_it_in_the_ranking_and_in_the_answer(package):
    (found,) = compare(synthetic.records())
    assert found.mains[-1].name == "slowest_step_seconds"
    assert found.rows[0].figures["slowest_step_seconds"].value > 0


def test_the_task_and_the_method_run_and_their_figures_are_read(package, tiny_bert, tmp_path):
    status, reason, records = jobs.run("full + count_updates", tiny_bert, tmp_path, task="balanced-topics")
    assert status == "ok", reason
    known = metrics.metrics()
    assert known["updates"].read(records) == 6
    right = records[-1]["quality"]["metrics"]
    assert known["balanced_accuracy"].read(records) == right["balanced_accuracy"] != right["accuracy"]
    assert not metrics.unregistered(tasks.tasks()["balanced-topics"].metrics)


def test_without_its_declaration_the_stage_fails_and_names_the_figure(package, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(methods.methods()["count_updates"], "figures", ())
    status, reason, _ = jobs.run("full + count_updates", tiny_bert, tmp_path)
    assert status == "failed"
    assert "full + count_updates adds the figure `updates` without declaring it: name it in its `figures`" in reason
