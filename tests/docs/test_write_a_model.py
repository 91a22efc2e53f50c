"""The code of docs/write-a-model.md, registered as a package registers it, and run."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from bench.machine import machine
from bench.models import conventions, registry
from bench.plan import plan
from bench.suite.suite import of
from bench.testing import jobs
from tests.packages import installed

PAGE = Path(__file__).parents[2] / "docs/write-a-model.md"


@pytest.fixture
def files(tmp_path):
    """The page's files, whose modules are an installed package's with the page's entry points."""
    found = defaultdict(str)
    for name, content in re.findall(r'^```\w+ title="(.+?)"\n(.+?)^```$', PAGE.read_text("utf-8"), re.M | re.S):
        found[name] += content
    groups = tomllib.loads(found.pop("pyproject.toml"))["project"]["entry-points"]
    for name, content in found.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    with installed(tmp_path, groups):  # what transformers has registered stays
        yield tmp_path


def refused(text, model, folder):
    asked = {"model": model, "task": jobs.table(folder).model_dump(), "recipes": {"r": text}}
    suite = of(asked | {"budget": {"steps": 3, "batch_size": 8, "max_length": 32}, "measure": {"latency": []}})
    return "; ".join(plan.make(suite, folder, machine.look("cpu", 1)).cells[0].refused)


def test_the_models_are_listed_and_run(files):
    assert {"random:nano", "random:mixer"} <= registry.models().keys()
    assert refused("lora(r=4)", "random:nano", files) == ""
    assert jobs.run("lora(r=4)", "random:nano", files, measure={"latency": []})[:2] == ("ok", "")


def test_an_architecture_that_nobody_knows(files):
    for text in (
        "head",
        "full >> torch_int8_dynamic",
        "full >> prune_ffn(0.5)",
        'lora(r=4, targets=["mix", "widen"])',
    ):
        assert refused(text, "random:mixer", files) == "", text
        assert jobs.run(text, "random:mixer", files, measure={"latency": []})[:2] == ("ok", ""), text
    said = re.sub(r"\s+", " ", re.findall(r"```text\n(.+?)```", PAGE.read_text("utf-8"), re.S)[-1]).strip()
    assert refused("full >> prune_heads(0.5)", "random:mixer", files) == said
    assert "name them with `targets`" in refused("lora(r=4)", "random:mixer", files)
    for text in ("full + tensor_parallel(2)", "full >> prune_hidden(0.5)", "top_layers(1) + rdrop"):
        assert refused(text, "random:mixer", files)


def test_names_that_the_page_calls_wrong_are_not_in_the_table():
    assert "heads" not in conventions.HEADS
    assert {"num_heads", "n_heads"} <= set(conventions.HEADS)
