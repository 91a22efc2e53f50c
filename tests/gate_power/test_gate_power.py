"""What `nox -s gate-power` rests on: the machines are as noisy as they say, and each rule is asked the right way round."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench.gate.decision import Rule
from tests.gate_power import __main__ as session
from tests.gate_power import recorded
from tests.gate_power.noise import NOISE, REPEATS, WORKERS, Noise
from tests.gate_power.rules import gate, peers

MEDIAN = 0.2147
"""Variance of the median of six independent values of the standard normal distribution."""

MACHINES = {noise.name: noise for noise in NOISE}
PEERS = peers()


@pytest.mark.parametrize("name", ["quiet GPU", "noisy VM", "drift"])
def test_the_spread_of_d_is_what_workers_and_repeats_add_up_to(name):
    noise = MACHINES[name]
    by_hand = math.sqrt(2 * (noise.worker**2 + MEDIAN * noise.repeat**2))
    d = noise.draw(np.random.default_rng(0), 2000, 20).d
    assert np.std(d) == pytest.approx(by_hand, rel=0.03)
    assert abs(np.mean(d)) < 4 * by_hand / math.sqrt(d.size)


@pytest.mark.parametrize(
    ("name", "spread"),
    [("quiet GPU", 0.003), ("typical CI", 0.01), ("noisy VM", 0.02), ("drift", 0.01), ("autocorrelated", 0.01)],
)
def test_the_spread_of_d_is_the_one_that_is_told(name, spread):
    assert np.std(MACHINES[name].draw(np.random.default_rng(0), 2000, 20).d) == pytest.approx(spread, rel=0.15)


def test_drift_is_large_between_moments_and_the_same_for_both_of_a_pair():
    drawn = MACHINES["drift"].draw(np.random.default_rng(0), 300, 20)
    values = np.log(np.median(drawn.base, axis=2))
    apart = np.abs(values[:, -1] - values[:, 0])
    assert math.log(1.1) - 0.04 < apart.min() < apart.max() < math.log(1.2) + 0.04
    assert math.log(1.1) < np.abs(np.log(np.median(drawn.stored, axis=(1, 2)))).mean() < math.log(1.2)
    assert abs(np.mean(drawn.d[:, -1] - drawn.d[:, 0])) < 0.005


def test_as_many_workers_are_outliers_as_are_told():
    values = np.median(MACHINES["outliers"].draw(np.random.default_rng(0), 1000, 20).base, axis=2)
    assert np.mean(values > 1.2) == pytest.approx(0.05, abs=0.005)
    assert values.max() < 3.2


def test_a_moment_moves_the_stored_baseline_alone():
    drawn = Noise("", worker=0.001, repeat=0.001, moment=0.05).draw(np.random.default_rng(0), 2000, 2)
    assert np.std(np.log(np.median(drawn.stored, axis=(1, 2)))) == pytest.approx(0.05, rel=0.05)
    assert np.std(np.log(np.median(drawn.base, axis=2))) < 0.002


def test_neighbours_are_alike_where_the_machine_remembers():
    d = MACHINES["autocorrelated"].draw(np.random.default_rng(0), 500, 20).d
    repeats = np.log(Noise("", 0.0, 0.01, 0.0, memory=0.5).draw(np.random.default_rng(0), 500, 20).base)
    # Of two neighbouring workers the offsets are alike, the medians of their repeats are not.
    worker = MACHINES["autocorrelated"].worker
    assert 0.4 * 2 * worker**2 < np.mean(d[:, 1:] * d[:, :-1]) < 0.6 * 2 * worker**2
    assert np.corrcoef(repeats[..., 1:].ravel(), repeats[..., :-1].ravel())[0, 1] == pytest.approx(0.5, abs=0.02)
    assert np.std(repeats) == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_what_is_obvious_and_nothing_in_the_same_data(name):
    rng = np.random.default_rng(0)
    base = np.exp(0.01 * rng.standard_normal((WORKERS, REPEATS)))
    assert PEERS[name](base, base * 1.3)
    assert not PEERS[name](base, base)
    assert not PEERS[name](base * 1.3, base)


def test_the_page_has_the_machines_as_they_are():
    page = (Path(__file__).parents[2] / "docs/gate-statistics.md").read_text(encoding="utf-8")
    for noise in NOISE:
        shares = (f"{share:.2%}".replace("%", " %") for share in (noise.worker, noise.repeat, noise.moment))
        assert f"| {noise.name} | {' | '.join(shares)} |" in page


def test_what_asks_for_asv_has_it_or_leaves_it_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert len(peers()) == 4
    assert not any(name.startswith("asv") for name in peers())


def test_our_gate_is_asked_for_each_metric_in_its_order():
    rng = np.random.default_rng(0)
    d = 0.005 * rng.standard_normal((3, 30)) + np.array([[0.0], [0.08], [0.0]])
    assert [decision.outcome for decision in gate(d, Rule())] == ["pass", "regression", "pass"]


def test_a_recording_is_read_and_neighbours_are_resampled_together(tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [{"base": [1.0 + number] * 6, "head": [2.0 * (1 + number)] * 6} for number in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((name, (base, head)),) = recorded.read(file).items()
    assert (name, base.shape, head.shape) == ("mine", (40, 6), (40, 6))
    drawn = recorded.resample(base, head, np.random.default_rng(0), 50, 30)
    assert drawn.d == pytest.approx(np.full((50, 30), math.log(2)))
    numbers = (drawn.base[:, :, 0] - 1).reshape(50, 6, recorded.BLOCK)
    assert (np.diff(numbers) % 40 == 1).all()
    assert (np.diff(drawn.stored[..., 0]) % 40 == 1).all()
    assert len(np.unique(numbers)) == 40


def test_the_pairs_of_a_gate_are_read_too(tmp_path):
    file = tmp_path / "gate.json"
    paired = {"recipe": "full", "metric": "latency", "how": "pairs"}
    paired |= {"base_values": [1.0] * 20, "head_values": [1.1] * 20}
    file.write_text(json.dumps({"checks": [paired, {**paired, "how": "exact"}]}))
    base, head = recorded.read(file)["full: latency"]
    assert (base.shape, head[0, 0]) == ((20, 1), 1.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "neither a recording"),
        ('{"base": [1.0]}', "neither a recording"),
        ('{"base": [1.0], "head": [1.0]}', "at least 20 pairs"),
        ('{"base": [1.0], "head": [NaN]}\n' * 20, "not a positive number"),
        ('{"base": [1.0], "head": [0.0]}\n' * 20, "not a positive number"),
    ],
)
def test_a_file_of_something_else_is_named(text, message, tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"other\.jsonl.*{message}"):
        recorded.read(file)


@pytest.mark.slow
def test_what_is_recorded_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "WORKERS", 2)
    assert session.main(["record", str(tmp_path / "mine.jsonl"), "--pairs", "2"]) == 0
    base, head = recorded.read(tmp_path / "mine.jsonl")["mine"]
    assert base.shape == head.shape == (2, REPEATS)
    assert len(np.unique([base, head])) > REPEATS


def test_the_recording_that_comes_along_is_of_fresh_processes_that_ran_the_same():
    base, head = recorded.read(recorded.FILE)["aa"]
    assert base.shape == head.shape
    assert base.shape[1] == REPEATS
    assert 0.5 < np.median(head) / np.median(base) < 2
    assert (np.minimum(base, head) > 0).all()


@pytest.mark.parametrize(
    ("count", "trials", "rate", "most", "holds"),
    [
        (0, 299, 0.01, True, True),  # .99 ** 299 < .05
        (0, 298, 0.01, True, False),
        (59, 59, 0.95, False, True),  # .95 ** 59 < .05
        (58, 58, 0.95, False, False),
        (20, 2000, 0.01, True, False),
        (0, 10, 0.95, False, False),
        (10, 10, 0.01, True, False),
    ],
)
def test_a_target_holds_where_the_trials_show_it(count, trials, rate, most, holds):
    assert session.Target("", count, trials, rate, most).holds is holds


def test_a_few_trials_are_measured_and_printed(capsys):
    status = session.main(["--trials", "8", "--peers", "2", "--suites", "1"])
    output = capsys.readouterr()
    assert status == 1  # eight trials show nothing
    assert "NOT SHOWN" in output.out
    for machine in (*MACHINES, "recorded: aa"):
        assert f"| {machine} |" in output.out
        assert f"{machine}: our gate" in output.err
    assert all(name in output.out for name in PEERS)


def test_wrong_use_is_told_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        session.main(["--recorded", str(tmp_path / "none.jsonl")])
    assert ended.value.code == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_gates_that_follow_each_other_over_a_recording_raise_no_alarm() -> None:
    ((name, (base, head)),) = recorded.read(recorded.WINDOWS).items()
    first, _, ours, *others = session.windows(name, base, head)
    assert first.startswith("windows: 500 pairs, 62 windows of 6 to 16 pairs")
    assert "0 of 62 | 0 |" in ours
    assert len(others) >= 8
