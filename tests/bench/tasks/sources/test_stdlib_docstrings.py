"""Tasks made of the docstrings of a library that the test makes up, and of the real one."""

import textwrap

import pytest

from bench.tasks.base import TaskError
from bench.tasks.sources import stdlib_code, stdlib_docstrings
from bench.tasks.sources.stdlib_docstrings import StdlibDocstrings, StdlibSummaries

SOURCE = textwrap.dedent(
    '''
    """Things of the module.

    They are of every kind, and there are more of them than anybody could count in a day.
    """

    class Thing:
        """One thing.

        Short.
        """

        @property
        def colour(self):
            """The colour
            over two lines.

            And more of it, in a second part that is long enough to be one of which a summary is made.
            """
            return 1

        async def moved(self, by):
            """Move it `by` so much."""
            # First here,
            await self
            return "\\d"

    def empty():
        """Nothing is done."""
    '''
)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib_code, "MODULES", ["things"])
    monkeypatch.setattr(stdlib_docstrings, "_ROOT", tmp_path)
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "things.py").write_text(SOURCE)
    return tmp_path


def test_summaries_are_first_lines_of_their_own_with_what_follows(made_up):
    (item,) = StdlibSummaries().read()
    assert item.texts == ("They are of every kind, and there are more of them than anybody could count in a day.",)
    assert item.answer == "Things of the module."


def test_functions_are_shown_without_their_docstrings(made_up):
    (item,) = StdlibDocstrings().read()
    asked, answer = item.answer
    code = 'async def moved(self, by):\n    # First here,\n    await self\n    return "\\d"'
    assert asked["content"] == f"Write the first line of the docstring of this Python function.\n\n{code}"
    assert answer == {"role": "assistant", "content": "Move it `by` so much."}


@pytest.mark.parametrize("task", [StdlibSummaries, StdlibDocstrings])
def test_a_missing_module_is_named(task, made_up, monkeypatch):
    monkeypatch.setattr(stdlib_code, "MODULES", ["things", "gone"])
    assert "has no sources of gone; use a Python with its whole standard library" in task().problems()[0]
    with pytest.raises(TaskError, match="no sources of gone"):
        list(task().read())


def test_items_are_kept_until_a_source_changes(made_up):
    before = StdlibSummaries().kept_as()
    assert StdlibSummaries().kept_as() == before
    (made_up / "things.py").write_text(SOURCE + "\n")
    assert StdlibSummaries().kept_as() != before


@pytest.mark.slow
def test_the_real_library():
    summaries, docstrings = StdlibSummaries(), StdlibDocstrings()
    assert summaries.problems() == docstrings.problems() == []
    assert 1700 < len(summaries.data) < 2300
    assert 3000 < len(docstrings.data) < 4500
    for split in ("train", "test"):
        assert all("\n" not in answer for answer in summaries.data.answers(split))
        assert all('"""' not in text.split("\n\n")[1][:200] for text in docstrings.texts(split))
    assert StdlibSummaries().fingerprint() == summaries.fingerprint()
