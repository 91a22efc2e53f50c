import time

import pytest

from bench.tasks.base import TaskError
from bench.tasks.sources.stdlib_code import MODULES, StdlibCode


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The task on a library made up for the test, with a cache of its own."""
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lib").mkdir()
    for number, name in enumerate(MODULES):
        if number % 2:
            (tmp_path / "lib" / f"{name}.py").write_text(f"# the module {name}\n")
        else:
            for folder in ("", "test", "tests"):
                file = tmp_path / "lib" / name / folder / "__init__.py"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"# the package {name} {folder}\n")
    for other in ("tkinter.py", "antigravity.py", "site-packages/abc.py"):
        (tmp_path / "lib" / other).parent.mkdir(exist_ok=True)
        (tmp_path / "lib" / other).write_text("# other\n")
    return fresh(tmp_path)


def fresh(tmp_path):
    task = StdlibCode()
    task.root = tmp_path / "lib"
    return task


def test_the_real_library():
    task = StdlibCode()
    assert task.problems() == []
    size = {split: sum(len(text.encode()) for text in task.texts(split)) for split in ("train", "validation", "test")}
    assert 3e6 < size["train"] < 12e6
    for split in ("validation", "test"):
        assert 200_000 <= size[split] < 205_000
        assert len(task.texts(split)) > 80, "of many files"
    whole = set(task.texts("train"))
    assert not any(passage in text for passage in task.texts("test")[:20] if len(passage) > 200 for text in whole)
    assert len(set(MODULES)) == len(MODULES)


def test_planning_is_quick_once_cached():
    expected = StdlibCode().fingerprint()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        task = StdlibCode()
        assert task.problems() == []
        assert task.fingerprint() == expected
        seconds.append(time.perf_counter() - start)
        assert "data" not in vars(task), "the texts were read"
    assert min(seconds) < 0.1  # some 8 ms where nothing else runs


def test_which_files(small):
    texts = set(small.read())
    assert len(texts) == len(MODULES)
    assert f"# the package {MODULES[0]} \n" in texts
    assert f"# the module {MODULES[1]}\n" in texts


def test_the_cache_gives_the_same_fingerprint(small, tmp_path, monkeypatch):
    built = small.fingerprint()
    assert built == small.data.fingerprint
    monkeypatch.setattr(StdlibCode, "read", lambda self: pytest.fail("read again"))
    assert fresh(tmp_path).fingerprint() == built
    assert fresh(tmp_path).counts() == small.data.counts


def test_a_source_that_changes_is_read_again(small, tmp_path):
    before = small.fingerprint()
    (tmp_path / "lib" / f"{MODULES[1]}.py").write_text("# told in other words\n")
    assert fresh(tmp_path).fingerprint() != before


def test_a_damaged_cache_is_built_again(small, tmp_path):
    built = small.fingerprint()
    (file,) = (tmp_path / "cache/stdlib-code").iterdir()
    whole = file.read_bytes()
    for damage in (
        b"", b"\xff" * 64, b"0" * 64, b"[" * 100_000, b"{}", whole[:80], whole.replace(b'"counts": {', b'"counts": [{'),
        whole.replace(b'"equal": 0', b'"equal": "0"'), whole.replace(b'"fingerprint": "', b'"fingerprint": "g'),
    ):  # fmt: skip
        assert damage != whole
        file.write_bytes(damage)
        assert fresh(tmp_path).fingerprint() == built
        assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written(small, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert small.fingerprint() == fresh(tmp_path).fingerprint() == small.data.fingerprint


def test_a_missing_module(small, tmp_path):
    (tmp_path / "lib" / f"{MODULES[1]}.py").unlink()
    (problem,) = small.problems()
    assert f"has no sources of {MODULES[1]}; use a Python with" in problem
    with pytest.raises(TaskError, match=MODULES[1]):
        small.fingerprint()
