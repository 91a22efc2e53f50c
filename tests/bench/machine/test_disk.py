"""Disks that are full."""

import contextlib
import errno
import os
import resource

import pytest
import torch

from bench.machine import disk
from bench.stage import checkpoint


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to make files longer than this, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_whole_or_what_it_was(tmp_path):
    file = tmp_path / "report.html"
    file.write_text("before")
    with pytest.raises(OSError, match=r"report\.html") as raised, files_of_at_most(10), disk.atomic(file) as half:
        half.write_text("x" * 100)
    assert disk.full(raised.value)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("report.html", "before")]


@pytest.mark.parametrize("save", [lambda file: checkpoint.save(file, torch.nn.Linear(100, 100), None), lambda file: checkpoint.write(file, b"x" * 9000)])  # fmt: skip
def test_half_a_checkpoint_is_removed(tmp_path, save):
    file = checkpoint.path(tmp_path, "node")
    checkpoint.folder(tmp_path)
    with pytest.raises((OSError, RuntimeError)) as raised, files_of_at_most(5000):
        save(file)
    assert disk.full(raised.value)
    assert list(file.parent.iterdir()) == []
    save(file)
    assert file.stat().st_mode & 0o077 == 0


def test_only_a_full_disk_is_one():
    assert disk.full(OSError(errno.EDQUOT, "x"))
    assert disk.full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not disk.full(OSError(errno.EACCES, "x"))
    assert not disk.full(RuntimeError("CUDA out of memory"))
    inner = RuntimeError("unexpected pos")
    inner.__context__ = OSError(errno.ENOSPC, "x")
    assert disk.full(inner)


def test_what_killed_processes_left_is_swept(tmp_path):
    checkpoint.folder(tmp_path)
    (tmp_path / "checkpoints" / "a.pt.1.part").write_text("half")
    (tmp_path / "report.html.1.part").write_text("half")
    os.utime(tmp_path / "report.html.1.part", (0, 0))
    (tmp_path / "report.html.2.part").write_text("another process is at it")
    (tmp_path / "checkpoints" / "b.pt").write_text("whole")
    (tmp_path / "temporary" / "1" / "methodbench-x").mkdir(parents=True)
    checkpoint.temporary(tmp_path).mkdir()
    checkpoint.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "temporary", "report.html.2.part"}
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["b.pt"]
    assert list((tmp_path / "temporary").iterdir()) == [checkpoint.temporary(tmp_path)]


def test_a_folder_is_whole_or_not_there(tmp_path):
    folder = tmp_path / "parent" / "model"
    with disk.atomic_folder(folder) as half:
        (half / "weights").write_text("1")
        assert not folder.exists()
    assert [file.name for file in folder.iterdir()] == ["weights"]
    empty = tmp_path / "parent" / "empty"
    empty.mkdir()
    with disk.atomic_folder(empty) as half:
        (half / "weights").write_text("2")
    assert (empty / "weights").read_text() == "2"
    with pytest.raises(OSError, match="not empty"), disk.atomic_folder(folder) as half:
        (half / "weights").write_text("3")
    with pytest.raises(KeyboardInterrupt), disk.atomic_folder(tmp_path / "parent" / "other"):
        raise KeyboardInterrupt
    assert sorted(path.name for path in (tmp_path / "parent").iterdir()) == ["empty", "model"]
    assert (folder / "weights").read_text() == "1"
