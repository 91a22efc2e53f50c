"""The worker's parts that need no model: scripts, and whose code a folder is of. The whole of it runs in
tests/integration/test_gate_planted.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gate import worker
from bench.gate.case import SCRIPT_BYTES, SCRIPT_SECONDS


def test_a_script_is_timed_whole_with_the_processes_that_it_waits_for(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < .2: pass\n"
    (tmp_path / "busy.py").write_text(busy)
    (tmp_path / "twice.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])\n{busy}"
    )
    with worker._script(f"{tmp_path}/busy.py") as once, worker._script(f"{tmp_path}/twice.py") as twice:
        one, two = (ready.repeat[SCRIPT_SECONDS](1) for ready in (once, twice))
    assert one.cpu >= 0.2
    assert 0.4 <= two.cpu < 3 * one.cpu
    assert two.wall >= two.cpu * 0.9


def test_a_scripts_memory_is_its_own_and_not_that_of_who_started_it(tmp_path: Path) -> None:
    held = {}
    for megabytes in (1, 100):
        with worker._script(f"-c 'x = b\"x\" * {megabytes} * 2**20'") as ready:
            ready.repeat[SCRIPT_SECONDS](1)
            held[megabytes] = ready.held[SCRIPT_BYTES]
    small, large = held[1], held[100]
    assert small is not None
    assert large is not None
    assert large - small == pytest.approx(99 * 2**20, rel=0.05)
    assert small < 30 * 2**20  # this process holds more


def test_a_script_that_fails_is_named_with_its_status() -> None:
    with worker._script("-c 'raise SystemExit(3)'") as ready, pytest.raises(RuntimeError, match="ended with status 3"):
        ready.repeat[SCRIPT_SECONDS](1)


def test_a_folder_of_other_code_or_another_question_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "base"

    def own(**asked: object) -> str:
        return worker._own(folder, {"modules": ["mine_for_a_test"], **asked})

    first = own()
    (folder / "records.jsonl").write_text("a record\n")
    assert own() == first
    assert (folder / "records.jsonl").exists()
    assert own(suite=1) != first
    assert not (folder / "records.jsonl").exists()
    second = own()
    assert second == first
    (folder / "records.jsonl").write_text("a record\n")
    (package / "other.py").write_text("")
    assert own() != first
    assert not (folder / "records.jsonl").exists()
