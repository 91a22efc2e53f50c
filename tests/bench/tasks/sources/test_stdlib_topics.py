from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.tasks.base import TaskError
from bench.tasks.sources.stdlib_topics import PACKAGES, StdlibTopics


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StdlibTopics:
    """The task on a library made up for the test, with a cache of its own."""
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    for package in PACKAGES:
        for folder in ("", "deeper", "test", "tests", "idle_test"):
            file = tmp_path / "lib" / package / folder / "__init__.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                f'"""The module {folder} of the package {package}."""\n'
                f'class A:\n    """A class in {folder} of the package {package}."""\n'
                f'    async def f(self):\n        """A function in {folder} of the package {package}."""\n'
                '    def g(self):\n        """Short."""\n'
                '    h = "\\d"\n'  # Python warns of it: not ours to show
            )
    return fresh(tmp_path)


def fresh(tmp_path: Path) -> StdlibTopics:
    task = StdlibTopics()
    task.root = tmp_path / "lib"
    return task


def cache_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache/stdlib-topics").iterdir()
    return file


def test_the_real_library() -> None:
    task = StdlibTopics()
    assert task.problems() == []
    assert task.labels == PACKAGES == tuple(sorted(PACKAGES))
    sizes = {split: len(task.texts(split)) for split in ("train", "validation", "test")}
    assert 1500 < sum(sizes.values()) < 3000
    assert sizes["test"] / sum(sizes.values()) == pytest.approx(0.2, abs=0.03)
    assert sizes["validation"] / sum(sizes.values()) == pytest.approx(0.1, abs=0.03)
    for split in ("train", "test"):
        assert set(task.targets(split)) == set(range(10))
        assert min(map(len, task.texts(split))) >= 30


def test_planning_is_quick_once_cached() -> None:
    expected = StdlibTopics().data.fingerprint
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        task = StdlibTopics()
        assert task.problems() == []
        assert task.fingerprint() == expected
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1  # some 5 ms where nothing else runs


def test_which_docstrings(small: StdlibTopics) -> None:
    rows = {(*item.texts, item.answer) for item in small.read()}
    assert ("The module deeper of the package email.", "email") in rows
    assert ("A class in  of the package email.", "email") in rows
    assert ("A function in  of the package email.", "email") in rows
    assert len(rows) == len(PACKAGES) * 2 * 3, "short ones and those of tests stay out"


def test_the_cache_gives_the_same(small: StdlibTopics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = small.data
    monkeypatch.setattr(StdlibTopics, "read", lambda self: pytest.fail("built again"))
    again = fresh(tmp_path)
    assert again.fingerprint() == built.fingerprint
    assert again.data == built
    assert again.counts() == again.data.counts == built.counts
    assert fresh(tmp_path).counts() == built.counts, "without reading the items"


def test_a_source_that_changes_is_read_again(small: StdlibTopics, tmp_path: Path) -> None:
    before = small.fingerprint()
    (tmp_path / "lib/email/__init__.py").write_text('"""The package email, told in other words."""')
    assert fresh(tmp_path).fingerprint() != before


def test_a_damaged_cache_is_built_again(small: StdlibTopics, tmp_path: Path) -> None:
    built = small.data
    file = cache_file(tmp_path)
    whole = file.read_bytes()
    damages = [
        b"",
        b"\xff\xfe\x00" * 100,
        whole[: len(whole) // 2],
        whole[:-1],
        whole.replace(b"fingerprint", b"footprint!!"),
    ]
    for damage in damages:
        file.write_bytes(damage)
        assert fresh(tmp_path).data == built
        assert file.read_bytes() == whole, "and it is mended"
        file.write_bytes(damage)
        assert fresh(tmp_path).fingerprint() == built.fingerprint


def test_a_cache_that_cannot_be_written(small: StdlibTopics, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert small.fingerprint() == fresh(tmp_path).fingerprint() == small.data.fingerprint


def test_a_missing_package(small: StdlibTopics, tmp_path: Path) -> None:
    (tmp_path / "lib/xml/__init__.py").unlink()
    (problem,) = small.problems()
    assert "has no sources of xml; use a Python with" in problem
    with pytest.raises(TaskError, match="xml"):
        small.fingerprint()
