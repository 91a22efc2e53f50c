import tomllib

import pytest

from bench.suite.suite import read_table, shipped
from reports import toml

HOSTILE = 'a"b\\c\n\t\x00\x7f\u2028[x] = 1 # é'


@pytest.mark.parametrize("name", shipped())
def test_a_suite_reads_back(name):
    table = read_table(shipped()[name])
    assert tomllib.loads(toml.written(table)) == table


def test_whatever_is_in_it_reads_back():
    table = {
        "title": HOSTILE,
        "a b.c": True,
        "list": [1, 2.5, [HOSTILE]],
        "far": [float("inf"), float("-inf")],
        "inside": {"x": {HOSTILE: 1e-9, "rows": [{"k": HOSTILE}]}},
        "empty": {},
    }
    assert tomllib.loads(toml.written(table)) == table


def test_what_is_not_there_is_left_out():
    assert tomllib.loads(toml.written({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}
    assert toml.written({}) == ""
