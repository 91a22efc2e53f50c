"""Trainings that are killed and go on, against the same that are not; and what becomes of checkpoints that are of no use."""

import errno
import math
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import pytest
import torch

from bench.execute.worker import attempt
from bench.measure import trust
from bench.recipe import registry
from bench.stage import checkpoint, resume
from bench.stage.resume import Checkpoints
from bench.stage.stage import Stopwatch
from bench.testing import jobs
from tests.trainings import make, prepared


@pytest.fixture
def one(tiny_bert, tmp_path):
    return jobs.job("full", tiny_bert, tmp_path, measure={"latency": []})


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(resume, "SHARE", math.inf)


def killed(one, after=3):
    """Leave a checkpoint of `one` after so many steps."""
    saving = replace(one, checkpoint_minutes=1e-9)
    jobs.kill(saving, after=after)
    return saving


def told(one):
    said = []
    status, reason, measured = attempt(one, lambda what, done, of, *_: said.append(what) if not of else None)
    assert status == "ok", reason
    return said, measured


@pytest.mark.parametrize(
    "text",
    ["full", "adalora(init_r=4, target_r=2)", "full + gradual(magnitude(0.5), every=2)", 'full + schedule("cosine")'],
)
def test_a_training_that_is_killed_again_and_again_is_as_one_that_is_not(text, tiny_bert, tmp_path, monkeypatch):
    at_once, stopped = jobs.trained_in_pieces(text, tiny_bert, tmp_path, monkeypatch, kills=(1, 2, 4, 5))
    assert stopped.resumed == [1, 2, 4, 5]
    assert (stopped.losses, stopped.tensors) == (at_once.losses, at_once.tensors)


def test_what_was_measured_before_the_kill_is_in_the_record(one, every_step):
    _, whole = told(one)
    saving = killed(one)
    before = torch.load(checkpoint.of_training(one.output), weights_only=False)
    said, measured = told(saving)
    assert said == ["the training goes on after step 3 of 6"]
    training = measured["training"]
    assert training["resumed"] == [3]
    assert training["step_seconds"][:3] == before["step_seconds"]
    assert len(training["step_seconds"]) == 6
    assert training["data_seconds"] > before["data_seconds"] > 0
    for name in ("tokens", "samples", "losses"):
        assert training[name] == whole["training"][name]
    for name in ("quality", "size", "parameters"):
        assert measured[name] == whole[name]
    seconds, earlier = measured["seconds"], before["beside"]["seconds"]
    assert {"train", "checkpoint", "resume", "earlier"} <= seconds.keys()
    assert seconds["earlier"] == earlier["earlier"] > earlier["load"] + earlier["train"]
    assert all(seconds[name] > value for name, value in earlier.items() if name in ("train", "load", "prepare"))
    assert all(claim["holds"] for claim in measured["evidence"])


def test_where_no_step_is_steady_the_record_says_why_there_is_no_throughput(one, every_step):
    for after in (2, 4):
        saving = killed(one, after)
    _, measured = told(saving)
    assert measured["training"]["resumed"] == [2, 4]
    why = "it was stopped so often that no step comes after a warm-up of 2 steps"
    assert measured["absent"] == {"train_tokens_per_second": why}


@pytest.mark.slow
def test_the_peak_of_memory_is_that_of_a_training_that_was_not_killed(tiny_llama, tmp_path, every_step):
    budget = {"batch_size": 64, "max_length": 120}
    one = jobs.job("full", tiny_llama, tmp_path, task=jobs.prose(tmp_path), budget=budget, measure={"latency": []})
    peaks = []
    for job in (one, killed(one)):
        status, reason, measured = jobs.apart(job)
        assert status == "ok", reason
        peaks.append(measured["training"]["peak_bytes"])
    assert measured["training"]["resumed"] == [3]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_zero_minutes_save_nothing_and_a_whole_training_leaves_a_checkpoint_of_before_its_last_step(one, every_step):
    file = checkpoint.of_training(one.output)
    told(one)
    assert not file.exists()
    told(replace(one, checkpoint_minutes=1e-9))
    assert len(torch.load(file, weights_only=False)["losses"]) == 5
    assert file.stat().st_mode & 0o777 == 0o600


def test_saving_takes_a_tenth_of_the_time_at_most(tiny_bert, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    one = jobs.job("full", tiny_bert, tmp_path)
    training = prepared("full", tiny_bert, tmp_path)
    with trust.Contention(training.device) as contention:
        kept = Checkpoints(training, replace(one, checkpoint_minutes=1), contention)
        next(training.each_step())

        due = []
        for took in (3.0, 12.0):
            monkeypatch.setattr(torch, "save", lambda state, stream, took=took: now.append(now.pop() + took))
            now[0] += 59
            assert not kept.due()
            now[0] += 1
            due.append(kept.due())
            kept.save()
        now[0] += 119
        assert not kept.due()
        now[0] += 1
        assert [*due, kept.due()] == [True] * 3
        training.stop = True
        assert not kept.due()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: os.truncate(file, file.stat().st_size // 2), r"node0.training cannot be read \(RuntimeError\)"),
        (lambda file: file.write_bytes(b""), r"cannot be read \(EOFError\)"),
        (lambda file: file.write_bytes(b"nonsense"), r"cannot be read \(UnpicklingError\)"),
        (lambda file: file.chmod(0o666), "others could have written this one"),
        (lambda file: changed(file, of={}), "is of another format"),
        (lambda file: changed(file, steps=7), "is of another training"),
        (lambda file: changed(file, shapes=[]), "is of another training"),
    ],
)
def test_a_checkpoint_of_no_use_is_said_and_the_training_begins_anew(one, every_step, spoil, said):
    _, whole = told(one)
    saving = killed(one)
    spoil(checkpoint.of_training(one.output))
    (sentence,), measured = told(saving)
    assert sentence.startswith("the training begins anew: ")
    assert re.search(said, sentence)
    assert measured["training"]["resumed"] == []
    assert measured["training"]["losses"] == whole["training"]["losses"]


def changed(file, **parts):
    torch.save({**torch.load(file, weights_only=False), **parts}, file)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"seed": 1}, "stage"),
        ({"recipe": "full(lr=0.01, share=1.0)"}, "stage"),
        ({"node": "other"}, "stage"),
        ({"machine": {"threads": 1}}, "machine"),
        ({"machine": {"versions": (("torch", "1.0"),)}}, "version of a package"),
    ],
)
def test_a_checkpoint_of_another_stage_or_machine_is_not_used(one, every_step, other, what):
    if "machine" in other:
        other = {"machine": replace(one.machine, **other["machine"])}
    saving = killed(replace(one, **other))
    (said,), measured = told(replace(saving, **{name: getattr(one, name) for name in other}))
    assert said.endswith(f"is of another {what}")
    assert measured["training"]["resumed"] == []


def test_what_cannot_be_put_back_is_not_tried_twice(one, every_step, monkeypatch):
    saving = killed(one)
    with monkeypatch.context() as patch:
        patch.setattr(resume, "_put_back_random", lambda saved: 1 / 0)
        assert attempt(saving, jobs.quiet)[:2] == ("failed", "ZeroDivisionError: division by zero")
    assert told(saving)[1]["training"]["resumed"] == []


def test_a_full_disk_costs_no_training_and_is_said_once(one, every_step, monkeypatch):
    _, whole = told(one)
    real = torch.save

    def full(content, stream):
        if "random" not in content:  # the model's own checkpoint
            return real(content, stream)
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    said, measured = told(replace(one, checkpoint_minutes=1e-9))
    assert said == ["no checkpoint of the training was written: the disk is full"]
    assert measured["training"]["losses"] == whole["training"]["losses"]
    assert [file.suffix for file in one.output.parent.iterdir()] == [".pt"]


def test_a_training_of_several_processes_or_with_a_method_that_cannot_is_not_saved_and_it_is_said(
    tiny_bert, tmp_path, every_step, monkeypatch
):
    monkeypatch.setattr(registry.methods()["weight_decay"], "begins_anew", "its luck is its own")
    one = jobs.job("full + weight_decay(0.1)", tiny_bert, tmp_path)
    saving = killed(one)
    assert not checkpoint.of_training(one.output).exists()
    assert told(saving)[0] == ["the training would begin anew if it were stopped: weight_decay: its luck is its own"]
    training = make("full", tiny_bert, tmp_path)
    training.group.mesh = object()
    assert resume._begins_anew(training) == "several processes share it"


@pytest.mark.parametrize(("alone", "reason"), [(True, "threads waited"), (False, "threads waited")])
def test_what_the_first_process_saw_of_a_busy_machine_stays(one, every_step, monkeypatch, alone, reason):
    with monkeypatch.context() as patch:
        patch.setattr(trust.Contention, "result", lambda self: {"contended": True, "reason": reason})
        saving = killed(replace(one, alone=alone))
    monkeypatch.setattr(trust.Contention, "result", lambda self: {"contended": False, "reason": ""})
    assert told(saving)[1]["trust"]["training"] == {"contended": True, "reason": reason}


@pytest.mark.parametrize("alone", [True, False])
def test_where_others_may_have_run_beside_it_timings_before_a_kill_are_not_trusted(one, every_step, monkeypatch, alone):
    monkeypatch.setattr(trust.Contention, "result", lambda self: {"contended": False, "reason": ""})
    found = told(killed(replace(one, alone=alone)))[1]["trust"]["training"]
    assert found == {"contended": not alone, "reason": "" if alone else "another stage may have run beside it"}


def test_what_watches_a_training_goes_on_with_it(tiny_bert, tmp_path):
    class Watching:
        seen = 0

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    one = replace(jobs.job("full", tiny_bert, tmp_path), checkpoint_minutes=1)
    found = []
    for watching in (Watching(), Watching()):
        training = prepared("full", tiny_bert, tmp_path)
        with trust.Contention(training.device) as contention:
            kept = Checkpoints(training, one, contention, watching=watching)
            kept.go_on()
            for watching.seen, _ in enumerate(training.each_step(), start=watching.seen + 1):  # noqa: B020
                if watching.seen == 4 and not found:
                    kept.save()
                    break
        found.append(watching.seen)
    assert found == [4, 6]


# -- what methods keep


@dataclass
class Seen:
    losses: list[float] = field(default_factory=list)
    best: list[torch.Tensor] = field(default_factory=list)


def carried(state, there, places):
    """`state` after a way over the disk, put into what is `there`."""
    packed = dict(resume._methods(state, {id(tensor): place for place, tensor in enumerate(places)}))
    own = [tensor.clone() for tensor in places]
    for name, entry in packed.items():
        there[name] = resume._into(there.get(name), resume._unpacked(entry, own))
    return there, own


def test_data_of_all_kinds_goes_over_and_a_models_own_tensors_are_told_by_their_place():
    weight, mask = torch.nn.Parameter(torch.ones(3)), torch.tensor([True, False, True])
    counts = defaultdict(list, {"a": [1]})
    state = {
        "numbers": (1, 2.5, None, "text", math.inf), "masks": [(weight, mask)], "by weight": {weight: mask},
        "seen": Seen([1.0], [mask]), "counter": Counter("aab"), "default": counts, "set": {1, 2},
    }  # fmt: skip
    found, own = carried(state, {}, [torch.zeros(1), weight])
    assert found["numbers"] == state["numbers"]
    assert found["masks"][0][0] is own[1] is next(iter(found["by weight"]))
    assert found["masks"][0][1].equal(mask)
    assert found["seen"] == Seen([1.0], found["seen"].best)
    assert (found["counter"], found["set"]) == (Counter("aab"), {1, 2})
    assert found["default"]["new"] == []
    assert counts == {"a": [1]}


def test_what_a_closure_holds_is_changed_in_place():
    there = {"list": [0], "dict": {"a": 0}, "seen": Seen([0.0]), "set": {0}}
    held = dict(there), there["seen"].losses
    carried({"list": [1, 2], "dict": {"b": 1}, "seen": Seen([1.0]), "set": {1}}, there, [])
    assert held == ({"list": [1, 2], "dict": {"b": 1}, "seen": Seen([1.0]), "set": {1}}, [1.0])
    assert all(there[name] is held[0][name] for name in there)


def test_functions_and_parts_of_the_model_are_made_anew_and_what_has_a_state_gives_it():
    layer, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    scaler = torch.amp.GradScaler("cpu")
    state = {
        "function": len,
        "layer": layer,
        "among data": [1, layer],
        "other": other,
        "scaler": scaler,
        "object": object(),
    }
    packed = dict(resume._methods(state, {id(tensor): place for place, tensor in enumerate(layer.parameters())}))
    assert packed.keys() == {"other", "scaler"}
    assert packed["scaler"].state == scaler.state_dict()


def test_a_view_is_saved_without_the_rest_of_its_storage():
    whole = torch.arange(1000.0)
    assert resume._apart(whole[:2]).untyped_storage().nbytes() == 8
    assert resume._apart(whole).data_ptr() == whole.data_ptr()


def test_seconds_between_the_steps_are_not_the_steps(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("bench.stage.stage.time.perf_counter", lambda: float(next(now)))
    seconds = Stopwatch()  # at 0
    for _ in seconds.each("train", iter("ab")):  # 1 to 2, then 3 to 4, and 5 to 6 for the end
        pass
    assert seconds.total == {"train": 3.0}
    assert seconds.state_dict() == {"train": 3.0, "earlier": 7.0}
    another = Stopwatch()  # at 8
    another.load_state_dict({"train": 3.0, "earlier": 7.0})
    assert another.state_dict() == {"train": 3.0, "earlier": 8.0}
