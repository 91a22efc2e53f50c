"""Throughput from trainings that took turns, against hand computations."""

import math

import pytest

from bench.compare import compare
from bench.compare.doubts import Busy, LeftOut, NotInTurns, WentOn
from bench.record.reading import read
from bench.record.schema import Turns
from bench.record.store import Store
from reports.sentences import warnings
from tests import synthetic
from tests.synthetic import Method

SPEED = "train_tokens_per_second"
HEALED = "full >> magnitude(0.5) >> full(share=0.3)"


def node(seed, recipe):
    return f"minilm/stdlib-topics/{seed}/{recipe}"


def take(records, recipe, ratios, *, busy=(), theirs=(1.0, 2.0, 3.0), **line):
    """Give a training's turns with `full` these `ratios` by seed; the machine was busy in turns of the seeds `busy`."""
    for seed, ratio in ratios.items():
        reason = "threads waited 2 s for a CPU" if seed in busy else ""
        ours = {"seconds": [ratio * each for each in theirs], "trust": {"contended": bool(reason), "reason": reason}}
        whole = {
            "node": node(seed, recipe), "baseline": node(seed, "full"), "run": "r1", "status": "ok",
            "ours": ours, "theirs": {"seconds": list(theirs)}, **line,
        }  # fmt: skip
        records.turns.setdefault(whole["baseline"], {}).setdefault(whole["node"], []).append(Turns.of(whole))


def stage(records, recipe, seed, tokens, seconds, warmup=1, busy=False):
    """Give a training these steps."""
    of = records.nodes[node(seed, recipe)]
    of["training"] |= {"tokens": tokens, "samples": [1] * len(tokens), "step_seconds": seconds, "warmup": warmup}
    of["trust"] = {"training": {"contended": busy, "reason": "busy" if busy else ""}}


@pytest.fixture
def records():
    found = synthetic.records({"full": Method("full"), "lora": Method("lora(r=8)"), "healed": Method(HEALED)})
    for seed in (0, 1, 2):
        stage(found, "full", seed, [10, 100, 100], [9.0, 1.0, 1.0 + seed])  # 100, 200/3 and 50 tokens a second
    return found


def compared(records):
    (found,) = compare.compare(records)
    return found, {row.name: row for row in found.rows}


def test_a_figure_is_the_baselines_times_the_ratio_in_turns(records):
    take(records, "lora(r=8)", {0: 0.5, 1: 0.4, 2: 0.5})
    _, rows = compared(records)
    full, lora = rows["full"].figures[SPEED], rows["lora"].figures[SPEED]
    assert full.by_seed == pytest.approx({0: 100, 1: 200 / 3, 2: 50})
    assert lora.by_seed == pytest.approx({0: 200, 1: 200 / 3 / 0.4, 2: 100})
    change = rows["lora"].changes[SPEED]
    assert change.value == pytest.approx((2 * 2.5 * 2) ** (1 / 3))
    assert change.value == pytest.approx(lora.value / full.value, rel=1e-12)


def test_the_ratio_is_the_median_of_neighbours_whatever_the_machine_did_meanwhile():
    sides = {"ours": {"seconds": [2.0, 9.0, 6.0]}, "theirs": {"seconds": [1.0, 1.0, 3.0]}}
    turns = Turns.of({"node": "a", "baseline": "b", "run": "r", "status": "ok", **sides})
    assert turns.ratio == pytest.approx(2)
    assert Turns.of({**turns, "status": "oom"}).ratio is None


def test_time_and_samples_follow_and_the_warm_up_is_as_it_was(records):
    stage(records, "lora(r=8)", 0, [10, 50, 150], [7.0, 3.0, 3.0])
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5})
    figures = compared(records)[1]["lora"].figures
    assert figures["train_seconds"].by_seed[0] == pytest.approx(7 + 200 / 100 * 0.5)
    assert figures["train_samples_per_second"].by_seed[0] == pytest.approx(2)


def test_trainings_of_one_recipe_count_by_their_tokens(records):
    for seed in (0, 1, 2):
        stage(records, HEALED, seed, [10, 100], [1.0, 1.0])
    take(records, HEALED, {0: 0.5, 1: 0.5, 2: 0.5})
    # 200 tokens as the baseline's and 100 in half the time: 300 in 250 times a token's.
    _, rows = compared(records)
    assert rows["healed"].figures[SPEED].by_seed[0] == pytest.approx(100 * 300 / 250)
    assert rows["healed"].changes[SPEED].value == pytest.approx(300 / 250)


def test_turns_of_some_seeds_alone_are_not_mixed_with_what_stages_recorded(records):
    recorded = compared(records)[1]["lora"].figures[SPEED].by_seed
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5})
    found, rows = compared(records)
    assert rows["lora"].figures[SPEED].by_seed == recorded
    assert NotInTurns("no turns are recorded of it", ("lora", "healed")) in found.doubts
    assert any("The training of `lora` and `healed` took no turns" in text for text in warnings(found))


def test_why_a_recipe_took_no_turns_is_said(records):
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5})
    take(records, HEALED, {0: 0.5}, status="oom", reason="no memory")
    assert NotInTurns("no memory", ("healed",)) in compared(records)[0].doubts


def test_the_last_turns_count(records):
    take(records, "lora(r=8)", {0: 9.0, 1: 0.5, 2: 0.5}, busy=[0])
    take(records, "lora(r=8)", {0: 0.5})
    found, rows = compared(records)
    assert rows["lora"].figures[SPEED].by_seed[0] == pytest.approx(200)
    assert not any(isinstance(doubt, LeftOut) for doubt in found.doubts)


def test_a_busy_seed_is_left_out_and_said(records):
    take(records, "lora(r=8)", {0: 0.5, 1: 9.0, 2: 0.5}, busy=[1])
    found, rows = compared(records)
    figure = rows["lora"].figures[SPEED]
    assert figure.by_seed == pytest.approx({0: 200, 2: 100})
    assert figure.left_out == (1,)
    assert figure.contended is None
    assert rows["lora"].changes[SPEED].value == pytest.approx(2)
    assert LeftOut({"lora": (1,)}) in found.doubts
    said = "Timings taken while the machine was busy are left out of the figures: seed 1 of `lora`."
    assert said in warnings(found)


def test_where_all_seeds_were_busy_they_stay_and_are_marked(records):
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5}, busy=[0, 1, 2])
    found, rows = compared(records)
    figure = rows["lora"].figures[SPEED]
    assert len(figure.by_seed) == 3
    assert figure.contended == "threads waited 2 s for a CPU"
    assert Busy(("lora",)) in found.doubts
    assert not rows["full"].contended


def test_a_busy_stage_of_the_baseline_is_mended_by_its_own_turns(records):
    stage(records, "full", 1, [10, 100, 100], [9.0, 50.0, 50.0], busy=True)
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5}, theirs=(0.02, 0.01, 0.02))
    _, rows = compared(records)
    assert rows["full"].figures[SPEED].by_seed == pytest.approx({0: 100, 1: 50, 2: 50})
    assert rows["lora"].figures[SPEED].by_seed == pytest.approx({0: 200, 1: 100, 2: 100})
    assert not rows["full"].left_out


def test_a_busy_latency_is_left_out_of_both_sides_of_a_ratio(records):
    busy = {"contended": True, "reason": "busy"}
    records.nodes[node(2, "full")]["trust"] = {"latency": busy}
    _, rows = compared(records)
    assert rows["full"].figures["latency_1x16"].left_out == (2,)
    assert rows["full"].left_out == (2,)
    ratios = [
        math.log(
            rows["lora"].figures["latency_1x16"].by_seed[seed] / rows["full"].figures["latency_1x16"].by_seed[seed]
        )
        for seed in (0, 1)
    ]
    assert math.log(rows["lora"].changes["latency_1x16"].value) == pytest.approx(sum(ratios) / 2)


def test_records_without_turns_are_read_as_before(records, tmp_path):
    expected = compared(records)[1]["lora"].figures[SPEED].by_seed
    (found,) = compare.compare(read(synthetic.write(records, tmp_path)))
    assert next(row for row in found.rows if row.name == "lora").figures[SPEED].by_seed == pytest.approx(expected)
    assert not any(isinstance(doubt, NotInTurns) for doubt in found.doubts)


def test_turns_are_read_from_a_file(records, tmp_path):
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5})
    store = Store(synthetic.write(records, tmp_path))
    for of in records.turns.values():
        for each in of.values():
            store.append({"kind": "turns", **each[-1]})
    (found,) = compare.compare(store.read())
    row = next(row for row in found.rows if row.name == "lora")
    assert row.figures[SPEED].by_seed == pytest.approx({0: 200, 1: 400 / 3, 2: 100})


def test_a_training_that_went_on_keeps_its_first_steps_and_it_is_said(records):
    for seed in (0, 1, 2):
        stage(records, "lora(r=8)", seed, [10, 100, 50, 100], [9.0, 7.0, 8.0, 7.0])
    records.nodes[node(1, "lora(r=8)")]["training"]["resumed"] = [2]
    take(records, "lora(r=8)", {0: 0.5, 1: 0.5, 2: 0.5})
    found, rows = compared(records)
    # The steady steps of seed 1 have 200 tokens and take half of the baseline's 0.015 s each; the others' are as recorded.
    assert rows["lora"].figures["train_seconds"].by_seed[1] == pytest.approx(9 + 8 + 200 * 0.5 * 0.015)
    assert rows["lora"].figures["train_seconds"].by_seed[0] == pytest.approx(9 + 250 * 0.5 * 0.01)
    assert WentOn({"lora": {1: (2,)}}) in found.doubts
    said = "Stopped, and went on in another process from what was saved: `lora`, seed 1, after step 2."
    assert said in warnings(found)
