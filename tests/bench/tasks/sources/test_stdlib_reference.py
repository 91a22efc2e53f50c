import itertools
import sys
import types

import pytest

from bench.tasks.base import TaskError
from bench.tasks.registry import tasks
from bench.tasks.sources.stdlib_code import MODULES
from bench.tasks.sources.stdlib_reference import StdlibReference


def paragraphs(texts):
    return [whole for text in texts for paragraph in text.split("\n\n") if len(whole := paragraph.strip()) > 80]


@pytest.fixture
def topics(monkeypatch):
    """The task on topics made up for the test."""

    def give(topics):
        module = types.ModuleType("pydoc_data.topics")
        module.topics = topics
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
        return StdlibReference()

    return give


def test_the_real_reference():
    task = tasks()["stdlib-reference"]()
    assert task.problems() == []
    size = {split: sum(len(text.encode()) for text in task.texts(split)) for split in ("train", "validation", "test")}
    assert 200_000 < size["train"] < 600_000
    assert 50_000 < size["test"] < 200_000
    assert size["validation"] > 20_000
    assert task.fingerprint() == StdlibReference().fingerprint()
    assert "pydoc_data" not in MODULES, "stdlib-code has it too"


def test_no_paragraph_is_in_two_splits():
    # A passage's end may cut a paragraph in two; a whole one that is elsewhere would be a leak.
    found = {split: set(paragraphs(StdlibReference().texts(split))) for split in ("train", "validation", "test")}
    assert all(found.values())
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other


def test_a_topic_within_another_counts_once(topics):
    part = "The if statement\n****\n\nIt chooses."
    whole = "Compound statements\n****\n\nThe if statement\n====\n\n   It chooses.\n\nThe end."
    assert list(topics({"if": part, "compound": whole, "again": whole}).read()) == [whole, "The if statement\n****"]


def test_a_paragraph_in_other_white_space_counts_once(topics):
    whole = "Lambdas\n****\n\nIt makes a function,\nwithout a name.\n\nThe end of it all."
    assert list(topics({"a": whole, "b": "It makes  a\u00a0function, without a name."}).read()) == [whole]


def test_long_topics_are_cut_into_passages(topics):
    lines = [f"Line {number} of the text.\n\n" for number in range(500)]
    found = list(topics({"long": "".join(lines)}).read())
    assert "".join(found) == "".join(lines)
    assert all(2_000 <= len(passage) < 2_100 for passage in found[:-1])


def test_without_the_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    (problem,) = StdlibReference().problems()
    assert problem.startswith("stdlib-reference: there are no help topics (")
    assert problem.endswith("use a Python with its whole standard library")
    with pytest.raises(TaskError, match="no help topics"):
        StdlibReference().fingerprint()
