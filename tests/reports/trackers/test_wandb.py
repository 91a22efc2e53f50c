"""Offline runs, read back with wandb's own messages."""

import json
import struct

import pytest

from reports.trackers.sending import Sender
from reports.trackers.wandb import Tracker

HEADER, BLOCK = 7, 32_768  # of LevelDB's log, which wandb writes


def messages(file):
    """The records of a run's file: its first 7 bytes are wandb's, and each block holds pieces with a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # full, or the last piece
            yield Record.FromString(whole)
            whole = b""


def runs(folder):
    found = {}
    for file in (folder / "wandb").glob("offline-run-*/*.wandb"):
        every = list(messages(file))
        run = next(each.run for each in every if each.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        history = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in each.history.item}
            for each in every
            if each.WhichOneof("record_type") == "history"
        ]
        summary = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for each in every
            if each.WhichOneof("record_type") == "summary"
            for item in each.summary.update
        }
        code = next(each.exit.exit_code for each in every if each.WhichOneof("record_type") == "exit")
        assert config["name"] not in found
        found[config["name"]] = run, config, history, summary, code
    return found


@pytest.mark.timeout(200)
def test_the_curve_the_figures_and_the_settings_are_read_back(folder, changed):
    pytest.importorskip("wandb")
    from bench.record.reading import read

    told = Sender(folder, ["wandb"]).send()
    assert told[0].place.startswith("offline, in ")
    assert "wandb sync" in told[0].place
    found = runs(folder)
    assert set(found) == {"full", "int8", "adamw, lr too high", "two GPUs"}
    run, config, history, summary, code = found["full"]
    node = read(folder).nodes["minilm/stdlib-topics/1/full"]
    assert (run.display_name, run.project, run.run_group) == (
        "full, seed 1",
        "Which-method-for-topics",
        "minilm on stdlib-topics",
    )
    assert (config["recipe"], config["unit.accuracy"], config["budget.steps"]) == ("full", "fraction", 60)
    assert [step["_step"] for step in history] == list(range(1, 61))
    assert [step["loss"] for step in history] == pytest.approx(node.training.losses)
    assert summary["accuracy"] == pytest.approx(node.quality.metrics["accuracy"])
    assert (code, found["adamw, lr too high"][4]) == (0, 1)

    changed("full")
    Sender(folder, ["wandb"]).send()
    again = runs(folder)
    assert len(again) == 4
    assert again["full"][3]["latency_1x16"] == pytest.approx(2 * summary["latency_1x16"])


def test_without_a_key_or_a_network_it_is_offline(folder, monkeypatch):
    assert Tracker(folder)._mode == "offline"  # no key
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert Tracker(folder)._mode == "offline"  # nobody answers
    monkeypatch.setenv("WANDB_MODE", "online")
    assert Tracker(folder)._mode == "online"  # as it is told
    assert Tracker(folder).place == "at http://127.0.0.1:9"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Tracker(folder)._mode == "offline"


def test_a_login_is_a_key(folder, tmp_path, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert Tracker(folder)._mode == "offline"
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        assert Tracker(folder)._mode == "online"


def test_disabled_is_told(folder, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    told = Sender(folder, ["wandb"]).send()
    assert (told[0].lacks, told[0].why) == (
        4, "MachineError: WANDB_MODE=disabled: wandb would send nothing; unset it, or set it to offline",
    )  # fmt: skip
