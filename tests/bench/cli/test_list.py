"""``methodbench list``."""

import json

import pytest

from tests.command import methodbench


@pytest.mark.parametrize("what", ["methods", "tasks", "kinds", "models", "suites"])
def test_list_as_json_has_name_and_kind(what):
    entries = json.loads(methodbench("list", what, "--json"))
    assert entries
    for entry in entries:
        assert entry["name"]
        assert entry["kind"]
        assert entry["summary"]
    assert entries[0]["name"] in methodbench("list", what)


def test_list_fits_80_columns():
    assert max(map(len, methodbench("list", "methods").splitlines())) <= 80
