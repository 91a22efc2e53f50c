"""Paths as users write them."""

import os
from pathlib import Path

import pytest

from bench.machine.paths import PathError, find, irregular


def test_a_path_begins_where_it_says(tmp_path):
    assert find("a/b", tmp_path) == tmp_path / "a/b"
    assert find("/a", tmp_path) == Path("/a")
    assert find("~/a", tmp_path) == Path.home() / "a"


@pytest.mark.parametrize(("text", "says"), [("~nosuchuser/x", "~nosuchuser is; write it out"), ("a\0b", "NUL")])
def test_what_is_no_path_is_said(tmp_path, text, says):
    with pytest.raises(PathError, match=says):
        find(text, tmp_path)


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert irregular(tmp_path / "pipe")
    assert irregular(Path(os.devnull))
    assert not irregular(tmp_path)
    assert not irregular(tmp_path / "file")
    assert not irregular(tmp_path / "nothing")
