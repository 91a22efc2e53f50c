"""The code of docs/write-a-task.md, registered as a package registers it, and run."""

import dataclasses
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from bench.machine import machine
from bench.models.registry import open_model
from bench.plan import plan
from bench.stage import serve
from bench.suite import suite
from bench.suite.suite import SuiteError
from bench.tasks import registry
from bench.tasks.base import TaskError
from bench.tasks.registry import open_task
from bench.testing import jobs
from tests.packages import installed

PAGE = Path(__file__).parents[2] / "docs/write-a-task.md"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The page's files in the working directory; its modules are an installed package's with the page's entry points."""
    found = defaultdict(str)
    for name, content in re.findall(r'^```\w+ title="(.+?)"\n(.+?)^```$', PAGE.read_text("utf-8"), re.M | re.S):
        found[name] += content
    groups = tomllib.loads(found.pop("pyproject.toml"))["project"]["entry-points"]
    for name, content in found.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path("orders.py")
    with installed(tmp_path, groups):
        yield tmp_path


def orders(files, model, recipes=None):
    """The page's suite on a tiny model."""
    table = suite.read_table(files / "orders.toml") | {"model": str(model)}
    return suite.of({**table, "recipes": recipes or table["recipes"]})


def keys(files, model):
    asked = orders(files, model)
    return {"task": asked.task, "budget": asked.budget.model_dump(), "measure": asked.measure.model_dump()}


def run(text, files, model):
    """Run a recipe on the page's data."""
    return jobs.run(text, model, files, **keys(files, model))


def test_a_registered_task_is_found_and_its_data_is_good(files):
    task = open_task("unicode-categories", files)
    assert task.problems() == []
    assert {"Ll", "Lu", "Nd"} <= set(task.labels)
    assert ("DIGIT SEVEN", "Nd") in {(*item.texts, item.answer) for item in task.read()}
    assert task.splits() == {"train", "validation", "test"}


def test_each_recipe_of_the_suite_runs_and_what_trains_learns(files, tiny_bert):
    asked = orders(files, tiny_bert)
    made = plan.make(asked, files, machine.look("cpu", jobs.THREADS))
    assert [cell.refused for cell in made.cells] == [(), (), ()]
    status, reason, (record,) = run(asked.recipes["full"], files, tiny_bert)
    assert (status, reason) == ("ok", "")
    tags = [tag for row in (files / "orders.csv").read_text().splitlines()[1:] for tag in row.partition(",")[2].split()]
    assert record["quality"]["metrics"]["accuracy"] > 0.1 + tags.count("O") / len(tags)
    served = serve.run(
        dataclasses.replace(jobs.job(asked.recipes["full"], tiny_bert, files, **keys(files, tiny_bert)), what="serve"),
        jobs.quiet,
    )
    assert {(entry["phase"], entry["length"]) for entry in served["latency"]} == {("forward", 16)}
    assert run(asked.recipes["lora"], files, tiny_bert)[:2] == ("ok", "")
    status, reason, (_, record) = run(asked.recipes["int8"], files, tiny_bert)
    assert (status, reason) == ("ok", "")
    assert {"accuracy", "agreement", "kl_divergence"} <= record["quality"]["metrics"].keys()


@pytest.mark.parametrize(
    "text",
    [
        "full + label_smoothing",
        "full + rdrop",
        "full + ensemble(2)",
        "prompt(2)",
        "full >> distill(layers=1)",
        'pretrain("mlm") >> full',
    ],
)
def test_methods_work_on_a_kind_that_they_have_not_heard_of(text, files, tiny_bert):
    assert run(text, files, tiny_bert)[:2] == ("ok", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('full + augment("eda")', "augment: it changes texts and keeps their labels, and those of a word_tags task"),
        (
            'full + contrastive("supcon")',
            "contrastive: supcon compares classes of texts, and those of a word_tags task",
        ),
        ("distill(layers=1)", "distill: the teacher's head is untrained"),
    ],
)
def test_what_does_not_suit_the_kind_is_refused_by_what_it_declares(text, says, files, tiny_bert):
    (cell,) = plan.make(orders(files, tiny_bert, {"it": text}), files, machine.look("cpu", 1)).cells
    assert any(reason.startswith(says) for reason in cell.refused), cell.refused


@pytest.mark.parametrize("text", ["full + label_smoothing", "full + rdrop", "full + ensemble", "full >> distill"])
def test_methods_of_classes_are_refused_where_there_are_none(text, files, tiny_bert, monkeypatch):
    asked = orders(files, tiny_bert, {"it": text})
    monkeypatch.setattr(registry.kinds()["word_tags"], "predicts_classes", False)
    (cell,) = plan.make(asked, files, machine.look("cpu", 1)).cells
    assert len(cell.refused) == 1
    assert "word_tags task" in cell.refused[0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "word_tag"}, "task.kind: input should be 'word_tags' or "),
        ({"data": "x.csv"}, "task.kind: this key is missing; known: causal_lm, classification, "),
        ({"kind": "word_tags", "data": "x.csv", "tag": "t"}, "task.tag: unknown key; did you mean `tags`?"),
        (
            {"kind": "word_tags", "data": "x.csv", "label": "t"},
            'task.label: word_tags learns from texts with a tag for each word; leave it out, or give kind = "classification"',
        ),
        (
            {"kind": "causal_lm", "data": "x.txt", "tags": "t"},
            'task.tags: causal_lm learns from texts alone; leave it out, or give kind = "token_classification"',
        ),
    ],
)
def test_a_wrong_table_is_said_in_one_line(table, says, files):
    with pytest.raises(SuiteError) as error:
        suite.of({"model": "minilm", "task": table, "recipes": {"full": "full"}})
    (line,) = str(error.value).splitlines()
    assert line.startswith(says)


def test_the_schema_offers_each_kind_with_its_own_keys(files):
    (tables,) = [each for each in suite.json_schema()["properties"]["task"]["anyOf"] if "oneOf" in each]
    keys = {table["properties"]["kind"]["const"]: set(table["properties"]) for table in tables["oneOf"]}
    common = {"kind", "data", "train", "validation", "test", "text", "name", "max_items"}
    assert common <= keys["causal_lm"] <= keys["classification"] & keys["word_tags"]
    assert keys["classification"] - keys["causal_lm"] == {"label", "label_order"}
    assert keys["word_tags"] - keys["causal_lm"] == {"tags"}


def test_a_bare_file_is_told_each_kind_that_reads_it(files):
    with pytest.raises(TaskError) as error:
        open_task("orders.csv", files)
    said = str(error.value)
    assert 'task = { kind = "classification", data = "orders.csv" }; other kinds that read it: ' in said
    assert {"word_tags", "causal_lm"} <= set(said.rpartition(": ")[2].split(", "))


def test_a_word_without_a_tag_is_named_by_its_line(files):
    (files / "orders.csv").write_text("text,tags\nbuy 3,O N\nbuy 3 plums,O N\n")
    (problem,) = open_task(orders(files, "m").task, files).problems()
    assert problem.endswith("orders.csv: line 3: 3 words have 2 tags; give each word one")


def test_the_first_token_of_each_word_has_its_tag(files, tiny_bert):
    task = open_task(orders(files, tiny_bert).task, files)
    _, tokenizer = open_model(str(tiny_bert), files).load(*task.model_options())
    module = importlib.import_module("word_tags")
    batch = module.Encoded(tokenizer, ["no 42", "7"], [[0, 1], [1]], 32).batch([1, 0])
    assert batch.labels.tolist() == [[-100, 1, -100, -100, -100, -100], [-100, 0, -100, 1, -100, -100]]
    assert (batch.lengths, batch.terms, batch.items) == ((3, 6), (1, 2), (1, 0))
    assert tokenizer.decode(batch.inputs["input_ids"][1]) == "[CLS] no 42 [SEP]"


@pytest.mark.slow
def test_the_command_line_runs_the_suite_in_processes_of_its_own(files, tiny_bert):
    text = (files / "orders.toml").read_text()
    (files / "orders.toml").write_text(text.replace('"minilm"', json.dumps(str(tiny_bert))))
    path = os.pathsep.join([str(files), os.environ.get("PYTHONPATH", "")])
    command = [Path(sys.executable).parent / "methodbench", "run", "orders.toml"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Beside the baseline full (accuracy " in " ".join(done.stdout.split())
