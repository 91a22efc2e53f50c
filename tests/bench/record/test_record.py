"""The records file: nothing recorded is ever lost, and what is damaged is said."""

import contextlib
import errno
import fcntl
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from statistics import median

import numpy
import pytest

import bench
from bench.record import schema
from bench.record import store as writing
from bench.record.errors import RecordError
from bench.record.frame import frame
from bench.record.line import FILE, encoded
from bench.record.reading import read
from bench.record.store import Store


def node(id_="n1", **more):
    return {"kind": "node", "id": id_, "parent": None, "run": "r1", "status": "ok", **more}


def lines(store):
    return store.file.read_bytes().splitlines(keepends=True)


# -- writing and reading back


def test_what_is_appended_is_read(tmp_path):
    store = Store(tmp_path / "new" / "folder")
    run = {"kind": "run", "run": "r1", "title": "Ünicode\nand lines\u2028", "baseline": "full", "cells": []}
    store.append(run)
    store.append(node(recipe="full", seconds={"total": 1.5}))
    store.append({"kind": "end", "run": "r1", "seconds": 2.0, "status": "done"})
    assert len(lines(store)) == 3
    records = read(tmp_path / "new" / "folder")
    assert records.runs == [{"schema": 2, **run}]
    assert records.nodes == {"n1": {"schema": 2, **node(recipe="full", seconds={"total": 1.5})}}
    assert records.ends["r1"]["seconds"] == 2.0
    assert records.warnings == []
    assert store.read() == records


def test_the_latest_record_of_a_node_wins_even_a_failure(tmp_path):
    store = Store(tmp_path)
    for id_, status in [("a", "oom"), ("b", "ok"), ("a", "ok"), ("b", "failed")]:
        store.append(node(id_, status=status))
    assert {id_: found["status"] for id_, found in read(tmp_path).nodes.items()} == {"a": "ok", "b": "failed"}


def test_numbers_that_are_not_finite_leave_valid_json(tmp_path):
    store = Store(tmp_path)
    steps = {"step_seconds": [0.1], "tokens": [1], "samples": [1], "warmup": 0}
    store.append(node(training={**steps, "losses": [2.0, math.inf, math.nan], "lr": -math.inf}))
    strict = json.loads(lines(store)[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict["training"] == {**steps, "losses": [2.0, None, None], "lr": None}
    training = read(tmp_path).nodes["n1"]["training"]
    assert training["losses"][0] == 2.0
    assert all(math.isnan(loss) for loss in training["losses"][1:])
    assert training["lr"] is None


def test_numpy_and_paths_are_written_plain(tmp_path):
    store = Store(tmp_path)
    store.append(node(weight_bytes=numpy.int64(5), share=numpy.float32(0.5), values=numpy.arange(3), log=Path("a/b")))
    found = read(tmp_path).nodes["n1"]
    assert (found["weight_bytes"], found["share"], found["values"], found["log"]) == (
        5,
        0.5,
        [0, 1, 2],
        "a/b",
    )
    with pytest.raises(TypeError, match="cannot hold"):
        store.append(node(oops=object()))
    assert len(lines(store)) == 1


def test_what_is_no_character_in_a_log_costs_nothing_else(tmp_path):
    store = Store(tmp_path)
    store.append(node(log=b"\xff broken".decode("utf-8", "surrogateescape")))
    assert read(tmp_path).nodes["n1"]["log"] == "\ufffd broken"


def test_every_line_is_one_write_and_synced(tmp_path, monkeypatch):
    store = Store(tmp_path)
    writes, synced = [], []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(len(data)) or write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()) or fsync(fd))
    store.append(node("a"))
    assert synced == [store.file, tmp_path]
    store.append(node("b", log="x" * 100_000))
    assert synced[2:] == [store.file]
    assert writes == [len(line) for line in lines(store)]


def test_reading_on_gives_what_reading_anew_gives(tmp_path):
    store = Store(tmp_path)
    records = store.read()
    for id_, status, cut in [("a", "ok", 5), ("a", "oom", 0), ("b", "ok", 0), ("a", "ok", 1), ("c", "failed", 9)]:
        store.append(node(id_, status=status))
        os.truncate(store.file, store.file.stat().st_size - cut)
        assert list(records.read_on().nodes) == list(read(tmp_path).nodes)
        assert records.nodes == read(tmp_path).nodes
        assert records.warnings == read(tmp_path).warnings
    assert records.ok == {"a", "b"}
    assert len(records.warnings) == 2


# -- damage


@pytest.mark.parametrize("cut", [1, 2, 10, 30])
def test_a_torn_last_line_costs_only_itself(tmp_path, cut):
    store = Store(tmp_path)
    store.append(node("a"))
    store.append(node("b"))
    os.truncate(store.file, store.file.stat().st_size - cut)
    if cut > 1:  # at 1, only the newline is gone, and the record is whole
        records = read(tmp_path)
        assert list(records.nodes) == ["a"]
        assert len(records.warnings) == 1
        assert f"{store.file}:2:" in records.warnings[0]
    torn = lines(store)[1]
    store.append(node("c"))
    records = read(tmp_path)
    assert list(records.nodes) == (["a", "c"] if cut > 1 else ["a", "b", "c"])
    assert len(records.warnings) == (cut > 1)
    assert lines(store)[1] == torn + b"\n"  # what a person may still want to look at is left as it is


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x00\x00\x00", b"\xff\xfe\x00", b"[1, 2]", b"17", b"null", b"{}",
        b'{"schema": "1", "kind": "node"}', b'{"schema": true, "kind": "run", "run": "x"}',
        b'{"schema": 1, "kind": "cake"}', b'{"schema": 1, "kind": []}', b'{"schema": 1, "kind": "node"}',
        b'{"schema": 1, "kind": "node", "id": 3, "run": "r", "status": "ok"}',
        b'{"schema": 1, "kind": "node", "id": "x", "run": "r", "status": "fine"}',
        b'{"schema": 1, "kind": "node", "id": "x", "run": "r", "status": "ok", "parent": []}',
        b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_not_fatal(tmp_path, junk):
    store = Store(tmp_path)
    store.append(node("a"))
    with store.file.open("ab") as file:
        file.write(junk + b"\n\n")
    store.append(node("b"))
    records = read(tmp_path)
    assert list(records.nodes) == ["a", "b"]
    (warning,) = records.warnings
    assert warning.startswith(f"{store.file}:2: this line is left out: it is ")
    assert len(warning) < 500


def test_a_newer_schema_is_refused_with_the_line_and_the_mend(tmp_path):
    store = Store(tmp_path)
    store.append(node("a"))
    with store.file.open("ab") as file:
        file.write(b'{"schema": 3, "kind": "something new"}\n')
    for reading in (read, frame, lambda folder: Store(folder).read()):
        with pytest.raises(RecordError, match=r"records\.jsonl:2: .*schema 3.*up to 2.*upgrade"):
            reading(tmp_path)


def test_no_records(tmp_path):
    assert Store(tmp_path).read().nodes == {}
    with pytest.raises(RecordError, match=r"there are no records in it; .*methodbench run"):
        read(tmp_path)
    with pytest.raises(RecordError, match="no such folder"):
        read(tmp_path / "nowhere")


# -- a full disk


def test_a_real_limit_on_the_file_spoils_nothing(tmp_path):
    """The kernel takes a part of the line and then refuses: EFBIG, as ENOSPC does on a full disk."""
    code = f"""
        import resource, signal
        from bench.record.errors import RecordError; from bench.record.store import Store
        store = Store({str(tmp_path)!r})
        line = {node()!r}
        store.append(line)
        store.append({{**line, "id": "n2"}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = store.file.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
        try:
            store.append({{**line, "id": "n3"}})
        except RecordError as error:
            print(error)
        assert store.file.stat().st_size == size
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.append({{**line, "id": "n4"}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "limit on file sizes" in done.stdout
    assert "2 records are safe; raise it (`ulimit -f`) and run the same command again" in done.stdout
    records = read(tmp_path)
    assert list(records.nodes) == ["n1", "n2", "n4"]
    assert records.warnings == []


def test_dev_full_really_is_full(tmp_path):
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            writing._write(fd, b"x")
    finally:
        os.close(fd)


@pytest.mark.parametrize("torn_before", [False, True])
@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        (
            "write",
            errno.ENOSPC,
            "the disk is full.* 1 record is safe; free some space and run the same command again",
        ),
        ("write", errno.EDQUOT, "quota.* 1 record is safe"),
        ("fsync", errno.EIO, "the disk gave an error.* 1 record is safe; see to the disk"),
        ("short", errno.ENOSPC, "the disk is full.* 1 record is safe"),
        ("zero", errno.ENOSPC, "the disk is full.* 1 record is safe"),
    ],
)
def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch, call, code, says, torn_before):
    store = Store(tmp_path)
    store.append(node("a"))
    if torn_before:
        with store.file.open("ab") as file:
            file.write(b'{"schema": 1, "kin')
    before = store.file.read_bytes()
    write = os.write

    def fail(*_):
        raise OSError(code, os.strerror(code))

    def short(fd, data):
        if len(data) < 10:
            return 0 if call == "zero" else fail()
        return write(fd, data[: len(data) // 2])

    partly = call in ("short", "zero")
    monkeypatch.setattr(os, "write" if partly else call, short if partly else fail)
    with pytest.raises(RecordError, match=says):
        store.append(node("b"))
    monkeypatch.undo()
    assert store.file.read_bytes() == before
    store.append(node("c"))
    assert list(read(tmp_path).nodes) == ["a", "c"]


def test_a_disk_that_cannot_even_cut_back_loses_only_the_torn_line(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append(node("a"))
    write = os.write

    def broken(fd, data):
        if len(data) < 50:
            raise OSError(errno.EIO, "I/O error")
        return write(fd, data[: len(data) // 2])

    def stuck(*_):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "write", broken)
    monkeypatch.setattr(os, "ftruncate", stuck)
    with pytest.raises(RecordError, match="1 record is safe"):
        store.append(node("b"))
    monkeypatch.undo()
    store.append(node("c"))
    records = read(tmp_path)
    assert list(records.nodes) == ["a", "c"]
    assert len(records.warnings) == 1


# -- folders that cannot be written


@pytest.mark.parametrize(
    ("below", "says"), [("", "a file of this name is in the way"), ("sub", "a part of this path is a file")]
)
def test_a_file_in_the_way(tmp_path, below, says):
    (tmp_path / "results").write_text("mine")
    with pytest.raises(RecordError, match=f"results.*cannot be written: {says}; move it or choose another folder"):
        Store(tmp_path / "results" / below)
    assert (tmp_path / "results").read_text() == "mine"


def test_a_file_system_that_takes_no_folders():
    with pytest.raises(RecordError, match=r"/proc/methodbench: cannot be written: .*; choose another folder"):
        Store("/proc/methodbench")


def test_records_that_are_a_folder(tmp_path):
    (tmp_path / "records.jsonl").mkdir()
    with pytest.raises(RecordError, match=r"records\.jsonl: cannot be written: a folder of this name is in the way"):
        Store(tmp_path)
    with pytest.raises(RecordError, match=r"records\.jsonl: cannot be read: a folder of this name"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("code", "says"), [(errno.EACCES, "permission denied"), (errno.EROFS, "the file system is read-only")]
)
def test_no_right_to_write(tmp_path, monkeypatch, code, says):
    """Root may write anywhere, so the refusal is made up."""

    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RecordError, match=f"{tmp_path}.*cannot be written: {says}; .*choose another folder"):
        Store(tmp_path)


# -- several processes


def _append_many(folder, name, count):
    store = Store(folder)
    for i in range(count):
        store.append(node(f"{name}-{i}", log=name * (1 + 997 * i % 20_000)))


def test_four_processes_append_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(tmp_path, name, 200)) for name in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    records = read(tmp_path)
    assert records.warnings == []
    assert set(records.nodes) == {f"{name}-{i}" for name in "abcd" for i in range(200)}
    assert all(found["log"] == id_[0] * (1 + 997 * int(id_[2:]) % 20_000) for id_, found in records.nodes.items())
    for name in "abcd":  # and each in its order
        assert [id_ for id_ in records.nodes if id_[0] == name] == [f"{name}-{i}" for i in range(200)]


def test_an_append_waits_for_another_that_may_yet_cut_back(tmp_path):
    store = Store(tmp_path)
    store.append(node("a"))
    with store.file.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=store.append, args=(node("b"),))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert len(lines(store)) == 1
        fcntl.flock(other, fcntl.LOCK_UN)
    waiting.join(10)
    assert list(read(tmp_path).nodes) == ["a", "b"]


HOLD = """
import signal, subprocess, sys, time
# Who starts the tests in the background has them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from bench.record.store import Store
with Store(sys.argv[1]).lock(lambda text: print(text, flush=True)):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print("held", child.pid, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holding(folder):
    """A process that holds the folder's lock or waits for it. Its child must not inherit the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    children = []
    process.held = lambda: children.append(int(process.stdout.readline().removeprefix("held "))) is None
    try:
        yield process
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_waits_and_goes_on_when_the_first_is_killed(tmp_path):
    with holding(tmp_path) as first, holding(tmp_path / "other") as elsewhere:
        assert first.held()
        assert elsewhere.held()  # another folder is another matter
        with holding(tmp_path) as second:
            said = second.stdout.readline()
            assert f"{tmp_path}: another run (process {first.pid}) is at work" in said
            before = _cpu_seconds(second.pid)
            time.sleep(0.3)
            assert second.poll() is None
            assert _cpu_seconds(second.pid) - before <= 0.02  # it sleeps
            first.send_signal(signal.SIGKILL)
            assert second.held()
            assert (tmp_path / ".lock").read_text() == f"{second.pid}\n"


def test_ctrl_c_ends_the_wait(tmp_path):
    with holding(tmp_path) as first:
        assert first.held()
        waiter = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "another run" in waiter.stdout.readline()
        time.sleep(0.1)
        waiter.send_signal(signal.SIGINT)
        _, errors = waiter.communicate(timeout=10)
        assert "KeyboardInterrupt" in errors


def test_a_forked_child_does_not_hold_the_lock_on(tmp_path):
    code = """
        import os, signal, sys, time
        from bench.record.store import Store
        store = Store(sys.argv[1])
        with store.lock(sys.exit):
            child = os.fork()
            if not child:
                time.sleep(60)
        try:
            with store.lock(sys.exit):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True, timeout=30)


def _cpu_seconds(pid):
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_free_lock_is_taken_without_a_word_and_given_back(tmp_path):
    store = Store(tmp_path)
    for _ in range(2):
        with store.lock(lambda text: pytest.fail(text)):
            store.append(node())
    with pytest.raises(ZeroDivisionError), store.lock(lambda text: pytest.fail(text)):
        raise ZeroDivisionError
    with store.lock(lambda text: pytest.fail(text)):
        pass


# -- figures


def training(step_seconds, tokens, **more):
    losses = [1.0] * len(step_seconds)
    samples = [16] * len(tokens)
    return {
        "step_seconds": step_seconds,
        "tokens": tokens,
        "samples": samples,
        "warmup": 1,
        "losses": losses,
        **more,
    }


def environment(device="cpu"):
    return {"machine": {"device": device, "device_name": "A CPU", "cpu": "A CPU", "threads": 2}}


def chain(store):
    """full >> prune_ffn >> full(share=0.3), by hand."""
    trained = training([9.0, 1.0, 2.0], [5, 100, 200], peak_bytes=70)
    store.append(node("a", recipe="full", training=trained, seed=3))
    pruned = node(
        "b", recipe="full >> prune_ffn(ratio=0.5)", parent="a", quality={"metrics": {"accuracy": 0.5}}, seed=3
    )
    store.append(pruned)
    latency = [
        {"batch": 1, "length": 16, "clock": "wall", "values": [3e-3, 1e-3, 2e-3]},
        {"batch": 1, "length": 16, "clock": "wall", "values": [6e-3, 6e-3, 6e-3]},
        {"batch": 8, "length": 64, "clock": "cpu", "values": [0.5]},
    ]
    healed = training([9.0, 5.0], [5, 100], peak_bytes=50)
    quality = {"metrics": {"accuracy": 0.75}}
    more = {"training": healed, "latency": latency, "quality": quality, "size": {"bytes": 7}}
    recipe = "full >> prune_ffn(ratio=0.5) >> full(share=0.3)"
    store.append(node("c", recipe=recipe, parent="b", seed=3, environment=environment(), **more))


def test_figures_of_the_frame_are_those_worked_out_by_hand(tmp_path):
    chain(Store(tmp_path))
    table = bench.read_records(tmp_path).set_index("id")
    assert list(table.index) == ["a", "b", "c"]
    healed = table.loc["c"]
    assert healed["train_tokens_per_second"] == (100 + 200 + 100) / (1.0 + 2.0 + 5.0)
    assert healed["train_samples_per_second"] == 3 * 16 / 8.0
    assert healed["train_seconds"] == 9 + 1 + 2 + 9 + 5
    assert healed["train_peak_bytes"] == 70
    assert healed["accuracy"] == 0.75
    assert healed["latency_1x16"] == median([2e-3, 6e-3])
    assert healed["cpu_latency_8x64"] == 0.5
    assert healed["size_on_disk"] == 7
    assert (healed["seed"], healed["status"], healed["device"], healed["threads"]) == (3, "ok", "cpu", 2)
    assert table.loc["a", "train_tokens_per_second"] == 300 / 3.0
    assert table.loc["b", "accuracy"] == 0.5
    assert math.isnan(table.loc["a", "accuracy"])
    units = bench.read_records(tmp_path).attrs["units"]
    assert (units["train_tokens_per_second"], units["latency_1x16"], units["size_on_disk"]) == (
        "tokens/s",
        "s",
        "B",
    )


@pytest.mark.parametrize("status", sorted(set(schema.STATUSES) - {"ok"}))
def test_what_did_not_end_ok_has_no_figures_nor_has_what_rests_on_it(tmp_path, status):
    store = Store(tmp_path)
    chain(store)
    store.append(node("a", status=status, reason="because", training=training([9.0, 1.0], [5, 100])))
    table = frame(tmp_path).set_index("id")
    assert (table.loc["a", "status"], table.loc["a", "reason"]) == (status, "because")
    figures = table[list(frame(tmp_path).attrs["units"])]
    assert figures.isna().all(axis=None)


def test_a_missing_stage_or_a_circle_gives_no_figures(tmp_path):
    store = Store(tmp_path)
    store.append(node("b", parent="lost", quality={"metrics": {"accuracy": 0.5}}))
    store.append(node("x", parent="y"))
    store.append(node("y", parent="x"))
    records = read(tmp_path)
    assert [records.path(id_) for id_ in "bxy?"] == [[], [], [], []]
    assert frame(tmp_path)["accuracy"].isna().all()


def test_the_frame_warns_of_what_it_leaves_out(tmp_path):
    store = Store(tmp_path)
    store.append(node("a"))
    os.truncate(store.file, store.file.stat().st_size - 5)
    with pytest.warns(UserWarning, match=r"records\.jsonl:1: this line is left out"):
        table = frame(tmp_path)
    assert len(table) == 0
    assert {"id", "status", "accuracy", "train_tokens_per_second"} <= set(table.columns)


# -- large, and light


def big(folder, count):
    """`count` records of 6 kB, as a run writes them."""
    values = [0.1234567890123456 + i for i in range(60)]
    shape = {"batch": 1, "length": 16, "values": values[:15], "warmups": [0.1]}
    latency = [{**shape, "clock": clock} for clock in ("wall", "cpu")]
    quality = {"metrics": {"accuracy": 0.5}, "predictions": [1] * 500, "correct": [0] * 500}
    more = {
        "training": training(values, [1000] * 60, losses=values),
        "latency": latency,
        "quality": quality,
        "environment": {**environment(), "versions": {f"package {i}": "1.0" for i in range(10)}},
    }
    text = encoded({"schema": 2, **node("ID", **more)})
    assert 5_000 < len(text) < 8_000
    folder.mkdir()
    with (folder / "records.jsonl").open("wb") as file:
        file.writelines(text.replace(b'"ID"', b'"%d"' % i) for i in range(count))


def test_ten_thousand_records_take_little_memory_and_linear_time(tmp_path):
    big(tmp_path / "small", 2_000)
    big(tmp_path / "large", 10_000)
    code = (
        "import sys, time; from bench.record.reading import read; start = time.process_time()\n"
        "count = len(read(sys.argv[1]).nodes); seconds = time.process_time() - start\n"
        # Not ru_maxrss, which begins with what the parent had at the fork.
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "print(count, seconds, int(status['VmHWM'].split()[0]) * 1024)"
    )
    found = {}
    for size in ("small", "large"):
        command = [sys.executable, "-c", code, str(tmp_path / size)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found[size] = [float(number) for number in out]
    assert found["large"][0] == 10_000
    assert found["large"][2] < 500e6
    assert found["large"][1] / found["small"][1] < 5 * 2  # five times the records; quadratic would be 25


def test_the_environment_of_a_run_is_kept_once(tmp_path):
    store = Store(tmp_path)
    for id_, device in [("a", "cpu"), ("b", "cpu"), ("c", "cuda")]:
        store.append(node(id_, environment=environment(device)))
    nodes = read(tmp_path).nodes
    assert nodes["a"]["environment"] is nodes["b"]["environment"]
    assert nodes["c"]["environment"] == environment("cuda")


def test_importing_is_light_and_the_public_names_are_there():
    code = (
        "import sys, bench\n"
        "assert not [name for name in sys.modules if name.startswith('bench.')]\n"
        "import bench.record.store, bench.machine.machine, bench.cli.doctor\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'psutil', 'pynvml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert str(bench.parse('full')) == 'full' and bench.Recipe\n"
        "assert issubclass(bench.RecipeError, ValueError)\n"
        "assert 'read_records' in dir(bench)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bench.nonsense


# -- a full disk


def test_a_reserve_is_there_for_the_record_of_a_full_disk(tmp_path, monkeypatch):
    store = Store(tmp_path)
    real = writing._write

    def write(fd, data):
        if (tmp_path / ".reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, data)

    monkeypatch.setattr(writing, "_write", write)
    with store.lock(print):
        assert (tmp_path / ".reserve").stat().st_size == writing.RESERVE
        store.append(node())
    assert list(read(tmp_path).nodes) == ["n1"]
    with store.lock(print):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "records.jsonl"}


def test_records_that_are_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(RecordError, match="it is a pipe or a device"):
        read(tmp_path)
    with pytest.raises(RecordError, match="it is a pipe or a device"):
        Store(tmp_path)


def test_the_frame_warns_of_a_figure_that_no_metric_is_registered_for(tmp_path):
    Store(tmp_path).append(node(quality={"metrics": {"accuracy": 0.5, "novel": 0.7}}))
    with pytest.warns(UserWarning, match="`novel` is recorded and no metric of that name is registered here"):
        table = frame(tmp_path)
    assert list(table["accuracy"]) == [0.5]
