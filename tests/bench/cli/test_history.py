"""``methodbench history``: the page, its JSON and its errors."""

import copy
import json

import pytest

from tests import synthetic
from tests.command import methodbench
from tests.synthetic import Method


@pytest.fixture
def folders(tmp_path):
    base = synthetic.records({"full": Method("full"), "a recipe of a rather long name": Method("lora(r=8)")}, items=20)
    for at in range(12):
        found = copy.deepcopy(base)
        found.runs[0]["started"] = f"2026-11-{at + 1:02d}T20:00:00+00:00"
        found.runs[0]["environment"] = {**synthetic.ENVIRONMENT, "git": {"commit": f"{at:x}" * 40}}
        for node in found.nodes.values():
            node["size"]["bytes"] = 10**6 * (1 if at < 6 else 2)
            if at == 9 and node["stage"] == "full":
                node |= {"status": "oom", "reason": "4 GB"}
        synthetic.write(found, tmp_path / f"{at:02d}")
    return [f"{at:02d}" for at in range(12)]


def test_a_page_says_what_changed_where_and_what_is_missing(folders, tmp_path):
    page = methodbench("history", *folders, cwd=tmp_path)
    assert max(map(len, page.split("\nfull: ")[0].splitlines())) <= 80
    assert "▁▁▁▁▁▁███·██" in page
    assert (
        "full: Size on disk is 100.0% higher, which is worse, from 6666666666 on (2026-11-07): 1.00 MB before, 2.00 MB after"
        in page
    )
    assert "of 100 rows without a change, 1 at most shows one, on average" in page
    assert "full has no Accuracy, " in page
    assert " in 09: the recipe is oom: 4 GB" in page


def test_too_few_folders_are_said(folders, tmp_path):
    page = methodbench("history", *folders[:4], "--metric", "size_on_disk", cwd=tmp_path)
    assert "No change point is looked for in fewer than 10 values, as 2 of 2 rows have." in page
    assert "by chance" not in page


def test_as_json_it_has_every_point(folders, tmp_path):
    words = ("--metric", "size_on_disk", "--recipe", "a*", "--format", "json")
    (course,) = json.loads(methodbench("history", *folders, *words, cwd=tmp_path))["courses"]
    assert [point["value"] for point in course["points"]] == [10**6] * 6 + [2 * 10**6] * 6
    assert [(change["at"], change["before"], change["after"]) for change in course["changes"]] == [
        (6, 10**6, 2 * 10**6)
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "DIR"),
        (["nowhere"], "nowhere: no such folder"),
        (["00", "--metric", "acuracy"], "did you mean `accuracy`"),
        (["00", "--recipe", "x*"], "matches no recipe"),
    ],
)
def test_wrong_use_is_2(folders, tmp_path, words, says):
    assert says in methodbench("history", *words, cwd=tmp_path, status=2)
