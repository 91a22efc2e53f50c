"""``methodbench compare``: what it prints, and its exit status with and without ``--strict``."""

import copy
import json

import pytest

from tests import synthetic
from tests.command import methodbench
from tests.synthetic import Method


@pytest.fixture
def folders(tmp_path):
    base = synthetic.records({"full": Method("full"), "lora": Method("lora(r=8)")})
    head, other = copy.deepcopy(base), copy.deepcopy(base)
    for node in head.nodes.values():
        if node["stage"] == "lora(r=8)":
            node["size"]["bytes"] *= 2
    for node in other.nodes.values():
        node["environment"]["machine"]["device"] = "cuda"
    for name, records in (("base", base), ("head", head), ("other", other)):
        synthetic.write(records, tmp_path / name)
    return tmp_path


def test_it_is_advice_unless_strict(folders):
    assert "lora" in methodbench("compare", "base", "head", cwd=folders)
    methodbench("compare", "base", "head", "--strict", cwd=folders, status=1)
    methodbench("compare", "base", "base", "--strict", cwd=folders)
    methodbench("compare", "base", "other", cwd=folders)
    methodbench("compare", "base", "other", "--strict", cwd=folders, status=3)


def test_a_page_fits_80_columns_and_names_what_is_worse(folders):
    page = methodbench("compare", "base", "head", cwd=folders)
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith("Regression: lora is 100.0 % larger in size on disk; 1% is allowed.")
    assert "27 to 45 %" in " ".join(page.split())


def test_as_json_it_is_a_verdict(folders):
    found = json.loads(methodbench("compare", "base", "head", "--json", cwd=folders))
    worse = [check for check in found["checks"] if check["outcome"] == "regression"]
    assert [(check["recipe"], check["metric"], check["change"]) for check in worse] == [("lora", "size_on_disk", 1.0)]


def test_a_suite_or_the_command_line_says_what_is_allowed(folders):
    (folders / "suite.toml").write_text(
        'model = "minilm"\ntask = "stdlib-topics"\n[gate]\nsize = "99%"\n[recipes]\nfull = "full"\n'
    )
    methodbench("compare", "base", "head", "--gate", "suite.toml", "--strict", cwd=folders, status=1)
    found = methodbench("compare", "base", "head", "--gate", "suite.toml", "--json", cwd=folders)
    assert {check["metric"] for check in json.loads(found)["checks"]} == {"size_on_disk"}
    methodbench("compare", "base", "head", "--allow", "size_on_disk=200 MB", "--strict", cwd=folders)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["base", "nowhere"], "nowhere: no such folder"),
        (["base", "."], "there are no records in it"),
        (["base"], "HEAD_DIR"),
        (["base", "head", "--gate", "encoder"], "it has no [gate] table"),
        (["base", "head", "--gate", "nothing.toml"], "nothing.toml: no such file"),
        (["base", "head", "--allow", "size=3 seconds"], "its tolerance is in bytes"),
    ],
)
def test_wrong_use_is_2(folders, words, says):
    assert says in " ".join(methodbench("compare", *words, cwd=folders, status=2).split())
