"""What a run shows while it goes on, and what of it stays."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.execute import watch
from bench.execute.watch import Past, Running, Watch
from bench.record.reading import Records
from tests.subjects import make_plan

TRAINED = {"warmup": 1, "step_seconds": [9.0, 0.5, 0.5], "tokens": [100, 100, 150], "samples": [1, 1, 1]}


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(watch.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def plan(monkeypatch):
    return make_plan(monkeypatch, {"full": "full", "int8": "full >> torch_int8_dynamic", "head": "head"}, seeds=[0, 1])


def node(plan, recipe, seed):
    return next(each for each in plan.nodes.values() if str(each.recipe) == recipe and each.seed == seed)


def watching(plan, say="stages", width=120, live=False):
    console = Console(file=io.StringIO(), width=width, force_terminal=live)
    return Watch(plan, console, say, live=live), console


def shown(watched, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(watched.display.get_renderable())
    return console.file.getvalue()


def record(seconds=2.0, status="ok", **parts):
    return {"status": status, "reason": "", "seconds": {"total": seconds}, **parts}


def test_the_time_left_is_that_of_the_stages_most_alike(plan):
    past = Past()
    assert past.expected(node(plan, "full", 1)) is None
    past.add(node(plan, "head", 0), 40.0)
    assert past.expected(node(plan, "full", 1)) == 40.0  # a trainer too
    past.add(node(plan, "full", 0), 10.0)
    assert past.expected(node(plan, "full", 1)) == 10.0  # the same with another seed
    assert past.expected(node(plan, "head", 1)) == 40.0
    assert past.expected(node(plan, "full >> torch_int8_dynamic", 0)) == 25.0  # of all, the median


def test_a_stage_says_loss_rate_and_time_left(clock):
    stage = Running(expected=None)
    assert stage.state() == ""
    stage.tell("load", 0, 1, {})
    assert stage.state() == "load"
    stage.tell("train", 1, 41, {"loss": 3.0, "tokens": 500.0})
    clock.now += 10
    stage.tell("train", 11, 41, {"loss": 2.5, "tokens": 2500.0})
    # 2,000 tokens and 10 steps in 10 seconds, and 30 steps to come.
    assert stage.state() == "train 11/41, loss 2.500, 200 tokens/s, 30 s left"
    clock.now += 1
    assert stage.state().endswith(", 29 s left")
    stage.tell("evaluate", 0, 1, {})
    assert stage.state() == "evaluate"


def test_what_is_recorded_says_more_than_the_steps(clock):
    stage = Running(expected=200.0)
    stage.tell("train", 1, 41, {"loss": 3.0, "tokens": 500.0})
    clock.now += 10
    stage.tell("train", 11, 41, {"loss": 2.5, "tokens": 2500.0})
    assert stage.state().endswith("200 tokens/s, 3 min left")
    clock.now += 500
    assert stage.state().endswith(", 0 s left")


def test_a_suite_says_how_long_it_will_take_yet(plan, clock, tmp_path):
    watched, console = watching(plan, live=True)
    nodes = list(plan.nodes.values())
    watched.begin(nodes, 0, Records(tmp_path / "none"))
    assert "all stages" in shown(watched)
    assert "0 of 6" in shown(watched)
    first, *others = nodes
    watched.node(first)("train", 3, 4, {"loss": 1.25, "tokens": 30.0})
    assert "full, seed 0" in shown(watched)
    assert "train 3/4, loss 1.250" in shown(watched)
    watched.ended(first, record(120.0))
    assert "seed 0" not in shown(watched)
    assert "1 of 6, 10 min left" in shown(watched)
    watched.node(others[0])
    clock.now += 60
    assert "1 of 6, 9 min left" in shown(watched)
    for line in shown(watched, width=60).splitlines():
        assert len(line) <= 60
    assert "min left" in shown(watched, width=60)
    # What ended is above the live lines, and stays.
    assert "[1/6] ok        120.0 s  full, seed 0" in console.file.getvalue()


def test_what_ran_before_says_how_long_it_takes_again(plan):
    recorded = node(plan, "full", 0)
    before = SimpleNamespace(ok={recorded.id}, nodes={recorded.id: record(50.0)})
    watched, _ = watching(plan, live=True)
    watched.begin([node(plan, "full", 1)], 1, before)
    assert "0 of 1, 50 s left" in shown(watched)


@pytest.mark.parametrize(
    ("say", "line"),
    [
        ("stages", "full, seed 0: 250 tokens/s"),
        ("figures", "train_tokens_per_second 250 tokens/s, train_samples_per_second 2.00 samples/s"),
    ],
)
def test_without_a_terminal_each_stage_is_a_plain_line_with_its_figures(plan, tmp_path, say, line):
    watched, console = watching(plan, say)
    first = node(plan, "full", 0)
    watched.begin([first], 2, Records(tmp_path / "none"))
    watched.node(first)("train", 1, 4)
    watched.ended(first, record(training=TRAINED))
    begin, ended = console.file.getvalue().splitlines()
    assert begin == "1 stage to run, 2 recorded"
    assert ended.startswith("[1/1] ok          2.0 s  full, seed 0: ")
    assert line in ended


def turns(plan, busy="", **line):
    side = {"seconds": [1.0, 1.0], "trust": {"contended": bool(busy), "reason": busy}}
    whole = {"kind": "turns", "node": "a", "baseline": "b", "run": "r", "status": "ok", "seconds": {"total": 7.5}}
    return whole | {"ours": side, "theirs": {"seconds": [2.0, 2.0]}} | line


def test_timings_are_plain_lines_too(plan, tmp_path):
    watched, console = watching(plan)
    first = node(plan, "head", 0)
    watched.begin([], 6, Records(tmp_path / "none"))
    for again, busy in ((False, "threads waited"), (True, "")):
        watched.timings([first, first], again=again)
        watched.node(first)("turns", 1, 16)
        watched.timed(first, turns(plan, busy))
    watched.node(first)
    watched.timed(first, turns(plan, status="oom", reason="no memory", ours=None))
    watched.timings([first], again=True)
    watched.node(first)
    watched.timed(first, record(kind="node") | {"seconds": {"retimed": 1.5, "total": 9.0}})
    assert console.file.getvalue().splitlines() == [
        "0 stages to run, 6 recorded",
        "2 timings to take now that the stages have ended",
        "[1/2] timing      7.5 s  head, seed 0: 2.00× the baseline's training throughput",
        "    threads waited",
        "2 timings to take again, since the machine was busy",
        "[1/2] timing      7.5 s  head, seed 0: 2.00× the baseline's training throughput",
        "[2/2] timing      7.5 s  head, seed 0: oom",
        "    no memory",
        "1 timing to take again, since the machine was busy",
        "[1/1] timing      1.5 s  head, seed 0: latency",
    ]


def test_the_time_left_of_timings_is_that_of_timings(plan, clock, tmp_path):
    watched, _ = watching(plan, live=True)
    first, other = node(plan, "head", 0), node(plan, "head", 1)
    watched.begin([first], 0, Records(tmp_path / "none"))
    watched.node(first)
    watched.ended(first, record(500.0))
    watched.timings([first, other], again=False)
    watched.node(first)("turns", 1, 16)
    assert "turns 1/16" in shown(watched)
    watched.timed(first, turns(plan))
    assert "1 of 2, 8 s left" in shown(watched)


def test_a_quiet_run_tells_of_what_is_not_ok(plan, tmp_path):
    watched, console = watching(plan, "errors")
    nodes = [node(plan, "full", 0), node(plan, "head", 0)]
    watched.begin(nodes, 0, Records(tmp_path / "none"))
    for each, status in zip(nodes, ("ok", "oom"), strict=True):
        watched.node(each)
        watched.ended(each, {**record(status=status), "reason": "" if status == "ok" else "no memory"})
    assert console.file.getvalue().splitlines() == ["[2/2] oom         2.0 s  head, seed 0", "    no memory"]


@pytest.mark.parametrize(("say", "said"), [("stages", "full, seed 0: it goes on after step 3\n"), ("errors", "")])
def test_a_sentence_of_a_stage_is_printed_and_changes_nothing_of_how_far_it_is(plan, say, said):
    watched, console = watching(plan, say)
    watched.begin([node(plan, "full", 0)], 0, Records(None))
    console.file.truncate(0)
    console.file.seek(0)
    tell = watched.node(node(plan, "full", 0))
    tell("train", 1, 6, {"loss": 1.0, "tokens": 5.0})
    tell("it goes on after step 3", 0, 0)
    assert console.file.getvalue() == said
    (running,) = watched._running.values()
    assert running.state().startswith("train 1/6")


def test_what_follows_a_run_is_told_of_each_stage(plan, tmp_path):
    told = []
    console = Console(file=io.StringIO())
    watched = Watch(plan, console, "errors", live=False, follower=SimpleNamespace(ended=told.append))
    each = node(plan, "full", 0)
    watched.begin([each], 0, Records(tmp_path / "none"))
    watched.node(each)
    watched.ended(each, record())
    assert told == [each.id]
