from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bench.machine import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METHODBENCH_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.folder() == Path("/own")
    monkeypatch.delenv("METHODBENCH_CACHE")
    assert cache.folder() == Path("/shared/methodbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path("/home/someone/.cache/methodbench")


def test_what_is_written_is_whole_and_alone(folder: Path) -> None:
    cache.write("some/name", b"one")
    cache.write("some/name", b"two")
    assert {file.name: file.read_bytes() for file in (folder / "some").iterdir()} == {"name": b"two"}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METHODBENCH_CACHE", str(tmp_path / "file"))
    cache.write("some/name", b"one")
    (tmp_path / "data").write_bytes(b"one")
    assert cache.sha256(tmp_path / "data") == hashlib.sha256(b"one").hexdigest()


def test_a_file_is_hashed_once_and_again_when_it_changes(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"one")
    before = file.stat()
    assert cache.sha256(file) == hashlib.sha256(b"one").hexdigest()
    (kept,) = (folder / "sha256").iterdir()
    kept.write_text("0" * 64)
    assert cache.sha256(file) == "0" * 64, "the cache was not asked"
    # As large and as old as before: the inode's change time alone tells.
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.sha256(file) == hashlib.sha256(b"two").hexdigest()


def test_a_damaged_hash_is_taken_again(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"one")
    right = cache.sha256(file)
    (kept,) = (folder / "sha256").iterdir()
    for damage in (b"", b"abc", b"\xff" * 64, right.encode().upper()):
        kept.write_bytes(damage)
        assert cache.sha256(file) == right
