import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import compare, stats
from bench.compare.answer import Verdicts, answer
from bench.compare.doubts import Busy, MoreUnread, NoBaseline
from bench.compare.front import front
from bench.compare.rows import Change
from bench.metrics.metric import Metric, Summary, last_training
from bench.metrics.registry import metrics
from bench.record.schema import Reference
from reports import words
from reports.sentences import headline, warnings
from tests import synthetic
from tests.synthetic import Method

TWO = {"full": Method("full"), "other": Method("lora(r=8)")}


def only(records):
    (found,) = compare.compare(records)
    return found


def rows(records):
    return {row.name: row for row in only(records).rows}


def node(records, seed, recipe):
    return records.nodes[f"minilm/stdlib-topics/{seed}/{recipe}"]


def set_accuracy(records, recipe, by_seed, items=None):
    """Give a recipe this accuracy for each seed; with `items`, as that many right and wrong items."""
    for seed, value in by_seed.items():
        quality = node(records, seed, recipe)["quality"]
        quality["metrics"] = {"accuracy": value}
        quality["correct"] = [int(i < round(value * items)) for i in range(items)] if items else None


def alike(records):
    """Give every recipe the same right and wrong items."""
    for each in records.nodes.values():
        if each.get("quality"):
            each["quality"] |= {"metrics": {"accuracy": 0.75}, "correct": [1, 1, 1, 0] * 100}
    return records


def test_the_baseline_comes_first_then_the_best_then_what_is_not_ok():
    comparison = only(synthetic.records())
    assert comparison.rows[0].name == "full"
    good = [row for row in comparison.rows[1:] if row.ok]
    scores = [row.figures["accuracy"].value for row in good]
    assert scores == sorted(scores, reverse=True)
    assert [row.status for row in comparison.rows[len(good) + 1 :]] == ["diverged", "oom", "refused"]


def test_a_metric_that_is_better_lower_ranks_the_other_way():
    records = synthetic.records(TWO)
    for recipe, loss in (("full", 1.0), ("lora(r=8)", 0.5)):
        for seed in (0, 1, 2):
            node(records, seed, recipe)["training"]["losses"] = [loss] * 60
    change = rows(records)["other"].changes["final_loss"]
    assert change.value == pytest.approx(-0.5)
    assert metrics()["final_loss"].better == "lower"


def test_the_verdict_takes_the_metrics_direction():
    methods = {"full": Method("full"), "fast and big": Method("lora(r=8)", step=0.5, memory=2.0)}
    changes = rows(synthetic.records(methods))["fast and big"].changes
    assert changes["train_tokens_per_second"].value == pytest.approx(2.0, rel=0.05)
    assert changes["train_tokens_per_second"].verdict == "better"
    assert changes["train_peak_bytes"].value == pytest.approx(2.0, rel=0.05)
    assert changes["train_peak_bytes"].verdict == "worse"


def test_figures_are_means_over_seeds_of_what_the_metric_reads():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.7, 1: 0.8, 2: 0.9})
    figure = rows(records)["full"].figures["accuracy"]
    assert figure.value == pytest.approx(0.8)
    assert figure.by_seed == {0: 0.7, 1: 0.8, 2: 0.9}
    assert str(figure) == "0.800 ± 0.248"  # 4.303 · 0.1 / √3


def test_costs_are_geometric_means_so_that_figures_agree_with_ratios():
    records = synthetic.records(TWO)
    for recipe, values in (("full", (1.0, 2.0, 4.0)), ("lora(r=8)", (4.0, 2.0, 1.0))):
        for seed, value in enumerate(values):
            node(records, seed, recipe)["inference"] = {"peak_bytes": value * 1e6}
    full, other = (rows(records)[name].figures["inference_peak_bytes"] for name in ("full", "other"))
    assert full.value == pytest.approx(2e6)
    assert other.value / full.value == pytest.approx(rows(records)["other"].changes["inference_peak_bytes"].value)
    assert str(full) == "2.00 MB (357 kB to 11.2 MB)"


def test_a_cost_of_zero_has_an_arithmetic_mean():
    records = synthetic.records(TWO)
    for seed, value in enumerate((0.0, 1e6, 2e6)):
        node(records, seed, "full")["inference"] = {"peak_bytes": value}
    assert rows(records)["full"].figures["inference_peak_bytes"].value == pytest.approx(1e6)


def test_quality_is_compared_by_differences_and_cost_by_ratios():
    changes = rows(synthetic.records())["nf4"].changes
    assert changes["accuracy"].kind == "difference"
    assert changes["accuracy"].value < 0
    assert changes["latency_1x16"].kind == "ratio"
    assert changes["latency_1x16"].value == pytest.approx(1.95, rel=0.05)


def test_a_difference_inside_its_interval_is_not_settled():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.75, 1: 0.70, 2: 0.80})
    set_accuracy(records, "lora(r=8)", {0: 0.77, 1: 0.69, 2: 0.81})
    assert rows(records)["other"].changes["accuracy"].verdict == "not settled"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.01, "same"),
        (-0.011, 0.009, "not settled"),
        (0.002, 0.008, "same"),  # there is a difference, and it does not matter
        (0.002, 0.011, "better"),
        (-0.03, -0.009, "worse"),
    ],
)
def test_an_interval_inside_the_margin_is_the_same(low, high, verdict):
    accuracy = metrics()["accuracy"]
    assert Change(accuracy, (low + high) / 2, (low, high), "seeds", 0.01).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1 / 1.02, 1.02, "same"),  # as far below 1 as above
        (0.979, 0.99, "better"),
        (0.985, 0.995, "same"),
        (0.97, 1.01, "not settled"),
        (1.005, 1.03, "worse"),
    ],
)
def test_a_ratio_inside_the_margin_is_the_same(low, high, verdict):
    peak = metrics()["train_peak_bytes"]
    assert Change(peak, math.sqrt(low * high), (low, high), "seeds", 0.02).verdict == verdict


def several(*means):
    """Recipes whose accuracies for seeds 0, 1 and 2 are these means, with a paired spread of one point."""
    names = ["full", *(f"r{i}" for i in range(1, len(means)))]
    records = synthetic.records({name: Method(f"lora(r={i})") for i, name in enumerate(names, start=1)})
    for i, (first, middle) in enumerate(zip([0.0, *[0.01] * len(means)], means, strict=False), start=1):
        set_accuracy(records, f"lora(r={i})", {0: middle - first, 1: middle, 2: middle + first})
    return records


def test_better_and_worse_hold_for_all_recipes_together():
    # 0.04 ± 0.01 over three seeds: t = 6.93, p = .0202, which is below 5 % alone and not among four.
    (alone,) = only(several(0.70, 0.74)).rows[1:]
    assert (alone.changes["accuracy"].verdict, alone.changes["accuracy"].adjusted) == ("better", True)
    first, *rest = only(several(0.70, 0.74, 0.70, 0.71, 0.69)).rows[1:]
    found = first.changes["accuracy"]
    assert found.p == pytest.approx(0.0202, abs=1e-4)
    assert found.adjusted_p == pytest.approx(4 * found.p)
    assert found.interval[0] > 0
    assert found.verdict == "not settled"
    assert [row.changes["accuracy"].adjusted_p for row in rest] == pytest.approx([0.676, 1.0, 0.676], abs=1e-3)


def test_what_would_settle_it_is_at_the_level_of_those_that_are_left():
    found = only(several(0.70, 0.95, 0.74, 0.71, 0.70))
    changes = {row.name: row.changes["accuracy"] for row in found.rows[1:]}
    assert (changes["r1"].verdict, changes["r1"].settling) == ("better", None)
    for name in ("r2", "r3", "r4"):
        change = changes[name]
        assert change.settling == stats.settling(change.noise, 0.01, 0.05 / 3)  # r1 is settled, three are left
    assert all(row.changes["train_peak_bytes"].settling is None for row in found.rows[1:])


def test_what_would_settle_it_is_said():
    # Student's t: with 2 degrees of freedom 7.649 at 1 - 5 % / 3 / 2, and 1.061 at 80 %; times 0.01 / √3.
    text = " ".join(headline(only(several(0.70, 0.95, 0.74, 0.74, 0.70))))
    assert "Seeds that would settle accuracy: 4 for `r2` and `r3`; 10 for `r4`" in text
    assert "The smallest difference that this run detects is 5.03 points" in text
    one = " ".join(headline(only(synthetic.records({"full": Method("full"), "b": Method("lora")}, seeds=(0,)))))
    assert "Seeds that would settle accuracy: more than one for `b`. " in one
    assert "Seeds that would" not in " ".join(headline(only(several(0.70, 0.95))))


def test_other_columns_stay_exploratory():
    records = several(0.70, 0.74, 0.70, 0.71, 0.69)
    changes = only(records).rows[1].changes
    assert [name for name, each in changes.items() if each.adjusted] == ["accuracy"]
    assert changes["train_tokens_per_second"].p is None
    assert (
        "Accuracy is decided for all recipes together (Holm, 5 %); other verdicts are exploratory."
        in words.verdicts(only(records))
    )


def test_what_is_the_same_needs_its_own_interval_alone():
    records = several(0.70, 0.74, 0.70)
    set_accuracy(records, "lora(r=3)", {0: 0.701, 1: 0.702, 2: 0.703})
    change = rows(records)["r2"].changes["accuracy"]
    assert (change.verdict, change.adjusted) == ("same", True)


def test_margins_are_those_of_the_run():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.75, 1: 0.70, 2: 0.80})
    set_accuracy(records, "lora(r=8)", {0: 0.78, 1: 0.732, 2: 0.828})
    assert rows(records)["other"].changes["accuracy"].verdict == "better"
    records.runs[0]["margins"] = {"quality": 0.04, "cost": 0.5}
    found = only(records)
    changes = found.rows[1].changes
    assert (changes["accuracy"].margin, changes["accuracy"].verdict) == (0.04, "same")
    assert changes["train_peak_bytes"].margin == 0.5
    assert changes["final_loss"].margin == pytest.approx(0.04 * found.rows[0].figures["final_loss"].value)
    assert words.verdicts(found).startswith("“Same” is within 4 points of quality and 50 % of costs.")
    records.runs[0]["margins"] = {"final_loss": 0.25}
    found = only(records)
    assert (found.rows[1].changes["final_loss"].margin, found.margins.quality) == (0.25, 0.01)
    assert words.verdicts(found).startswith("“Same” is within 1 point of quality, 0.250 nats of training loss and 2 %")


def test_pairing_by_seed_finds_what_means_alone_would_hide():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.60, 1: 0.70, 2: 0.80})
    set_accuracy(records, "lora(r=8)", {0: 0.641, 1: 0.740, 2: 0.839})
    assert rows(records)["other"].changes["accuracy"].verdict == "better"


def test_seeds_that_all_differ_by_one_item_are_no_proof():
    # Zero variance is not certainty: over 500 items one item is nothing.
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.75, 1: 0.70, 2: 0.80}, items=500)
    set_accuracy(records, "lora(r=8)", {0: 0.752, 1: 0.702, 2: 0.802}, items=500)
    change = rows(records)["other"].changes["accuracy"]
    assert change.covers == "seeds and items"
    assert change.verdict == "same"
    records.runs[0]["margins"] = {"quality": 0.002}
    assert rows(records)["other"].changes["accuracy"].verdict == "not settled"


def test_the_interval_of_quality_is_that_of_seeds_and_items():
    records = synthetic.records(TWO)
    # Differences [[1, 0, -1], [1, 1, 1]]: squared error over seeds 1/4, over items 1/12; MS_rest 1/2, over the 6 scores 1/12.
    # All of the variance, 1/4, is what MS_seeds says: one degree of freedom.
    for seed, ours, theirs in ((0, [1, 0, 0], [0, 0, 1]), (1, [1, 1, 1], [0, 0, 0])):
        for recipe, correct in (("lora(r=8)", ours), ("full", theirs)):
            node(records, seed, recipe)["quality"] = {"metrics": {"accuracy": sum(correct) / 3}, "correct": correct}
    for recipe in ("lora(r=8)", "full"):
        node(records, 2, recipe)["status"] = "failed"
    change = rows(records)["other"].changes["accuracy"]
    half = stats.quantile(1) * 0.5
    assert (change.value, change.covers) == (0.5, "seeds and items")
    assert change.interval == pytest.approx((0.5 - half, 0.5 + half))


def test_items_of_a_task_of_lm_eval_pair_with_the_baselines():
    records = synthetic.records(TWO)
    # As in the test before, while the test items of the recipes' own task are others.
    for seed, ours, theirs in ((0, [1, 0, 0], [0, 0, 1]), (1, [1, 1, 1], [0, 0, 0])):
        for recipe, items in (("lora(r=8)", ours), ("full", theirs)):
            score = {"task": "mine", "metric": "acc", "value": sum(items) / 3, "items": items}
            node(records, seed, recipe)["lm_eval"] = {"version": "0.4.13", "scores": {"mine_acc": score}}
    for recipe in ("lora(r=8)", "full"):
        node(records, 2, recipe)["status"] = "failed"
    change = rows(records)["other"].changes["lm_eval_mine_acc"]
    half = stats.quantile(1) * 0.5
    assert (change.value, change.covers) == (0.5, "seeds and items")
    assert change.interval == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("correct", [None, [1, 1, 1, 0], [1] * 9])
def test_scores_that_are_not_the_figures_or_of_other_items_leave_the_seeds(correct):
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.75, 1: 0.70, 2: 0.80}, items=20)
    set_accuracy(records, "lora(r=8)", {0: 0.75, 1: 0.75, 2: 0.75})
    for seed in (0, 1, 2):
        node(records, seed, "lora(r=8)")["quality"]["correct"] = correct
    change = rows(records)["other"].changes["accuracy"]
    assert change.covers == "seeds"
    assert change.interval == pytest.approx((-0.124, 0.124), abs=1e-3)


def test_equal_differences_without_items_are_not_settled():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.5, 1: 0.25, 2: 0.75})
    set_accuracy(records, "lora(r=8)", {0: 0.625, 1: 0.375, 2: 0.875})
    change = rows(records)["other"].changes["accuracy"]
    assert (change.verdict, change.interval) == ("not settled", None)


def test_equal_values_are_the_same():
    records = synthetic.records({"full": Method("full"), "again": Method("full")})
    changes = rows(records)["again"].changes
    assert {change.verdict for change in changes.values()} == {"same"}


def test_one_seed_compares_quality_over_items_and_leaves_timings_unsettled():
    found = rows(synthetic.records(seeds=(0,)))
    accuracy, latency = found["head only"].changes["accuracy"], found["nf4"].changes["latency_1x16"]
    assert (accuracy.covers, accuracy.verdict) == ("items", "worse")
    assert (latency.interval, latency.verdict) == (None, "not settled")
    assert found["full"].figures["accuracy"].interval is None


def test_counted_figures_are_exact_with_one_seed():
    changes = rows(synthetic.records(seeds=(0,)))["nf4"].changes
    assert (changes["size_on_disk"].covers, changes["size_on_disk"].verdict) == ("exact", "better")
    assert changes["trainable_parameters"].verdict == "same"


def test_a_recipe_is_ok_only_if_every_node_of_every_seed_is():
    found = rows(synthetic.records())
    assert words.status(found["full"]) == "ok"
    assert words.status(found["adamw, lr too high"]) == "diverged (2 of 3 seeds ok)"
    assert words.status(found["ensemble of 8"]) == "oom"
    assert found["ensemble of 8"].figures == {}
    assert "MemoryError" in found["ensemble of 8"].endings[0].log


def test_a_failed_first_stage_fails_what_comes_after_it():
    records = synthetic.records()
    node(records, 1, "full").update(status="failed", reason="no space left", log="…")
    int8 = rows(records)["int8"]
    assert words.status(int8) == "failed (2 of 3 seeds ok)"
    assert int8.succeeded == (0, 2)
    assert int8.endings[1].stage == "full"
    assert set(int8.figures["accuracy"].by_seed) == {0, 2}


def test_what_was_never_recorded_is_not_run():
    records = synthetic.records()
    for seed in (0, 1, 2):
        del records.nodes[f"minilm/stdlib-topics/{seed}/full >> nf4"]
    assert rows(records)["nf4"].status == "not run"


def test_a_refused_recipe_keeps_its_reason():
    row = rows(synthetic.records())["two GPUs"]
    assert (row.status, row.figures) == ("refused", {})
    assert "this machine has 0" in words.reasons(row)[0]


def test_an_invalid_recipe_gives_no_figure_but_its_evidence():
    records = synthetic.records(TWO)
    for seed in (0, 1, 2):
        bad = node(records, seed, "lora(r=8)")
        bad["status"] = "invalid"
        bad["evidence"][0]["holds"] = seed == 0
        bad["evidence"][0]["seen"] = f"seen by {seed}"
    row = rows(records)["other"]
    assert (row.status, row.figures) == ("invalid", {})
    assert (row.evidence[0].held, row.evidence[0].of, row.evidence[0].seen) == (1, 3, "seen by 1")


def test_ratios_pair_only_the_seeds_that_both_have():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.5, 1: 0.9, 2: 0.5})
    set_accuracy(records, "lora(r=8)", {0: 0.6, 2: 0.6})
    node(records, 1, "lora(r=8)")["status"] = "failed"
    assert rows(records)["other"].changes["accuracy"].value == pytest.approx(0.1)


def test_a_baseline_without_a_result_is_said():
    records = synthetic.records(TWO)
    for seed in (0, 1, 2):
        node(records, seed, "full")["status"] = "oom"
    comparison = only(records)
    assert comparison.rows[0].name == "full"
    assert comparison.rows[1].changes == {}
    assert any("`full` is oom" in warning for warning in warnings(comparison))


def test_contended_timings_are_marked_and_nothing_else():
    found = rows(synthetic.records(contended=("ia3",)))
    figures = found["ia3"].figures
    for name in ("train_tokens_per_second", "train_seconds", "latency_1x16", "cpu_latency_8x64"):
        assert figures[name].contended == "CPU time was 61 % of wall time"
    for name in ("accuracy", "train_peak_bytes", "size_on_disk"):
        assert figures[name].contended is None
    assert found["full"].contended == []


def divided(**keys):
    methods = {"full": Method("full"), "two": Method("full + data_parallel(2)", step=0.625)}
    found = synthetic.records(methods, noise=0.0, **keys)
    for seed in (0, 1, 2):
        record = node(found, seed, "full + data_parallel(2)")
        record["single_process"] = node(found, seed, "full")["id"]
        record["training"]["ranks"] = [{}, {}]
        record["training"]["communicated_bytes"] = 1000
    return found


def test_several_processes_are_measured_by_one():
    found = divided()
    figure = rows(found)["two"].figures["scaling_efficiency"]
    speeds = [rows(found)[name].figures["train_tokens_per_second"].by_seed for name in ("two", "full")]
    assert figure.by_seed == pytest.approx({seed: speeds[0][seed] / (2 * speeds[1][seed]) for seed in (0, 1, 2)})
    assert 0.7 < figure.value < 0.9  # 1 / 0.625 times as fast
    assert "scaling_efficiency" not in rows(found)["full"].figures
    assert metrics()["scaling_efficiency"] in only(found).metrics


def test_what_is_counted_is_not_contended():
    figures = rows(divided(contended=("two",)))["two"].figures
    assert figures["train_tokens_per_second"].contended
    assert figures["communicated_bytes"].contended is None


def test_a_contended_single_process_marks_the_efficiency():
    figures = rows(divided(contended=("full",)))["two"].figures
    assert figures["scaling_efficiency"].contended
    assert not figures["train_tokens_per_second"].contended


def test_a_contended_baseline_marks_every_ratio_to_it():
    found = rows(synthetic.records(contended=("full",)))
    assert found["lora r=8"].changes["latency_1x16"].contended.startswith("full: ")
    assert found["lora r=8"].figures["latency_1x16"].contended is None


@pytest.mark.parametrize("key", ["cpu", "device", "threads", "python"])
def test_different_environments_are_never_pooled_silently(key):
    records = synthetic.records(TWO)
    assert not warnings(only(records))
    other = node(records, 1, "full")
    machine = {**synthetic.ENVIRONMENT["machine"], key: "something else"}
    other["environment"] = {**synthetic.ENVIRONMENT, "machine": machine}
    (warning,) = warnings(only(records))
    assert key in warning
    assert "something else" in warning


def test_different_versions_are_never_pooled_silently():
    records = synthetic.records(TWO)
    machine = {**synthetic.ENVIRONMENT["machine"], "versions": {"torch": "2.14.0"}}
    node(records, 1, "full")["environment"] = {"machine": machine}
    assert any("torch is 2.13.0+cpu and 2.14.0" in warning for warning in warnings(only(records)))


def test_what_may_differ_between_nodes_of_a_run_is_no_warning():
    records = synthetic.records(TWO)
    node(records, 1, "full")["environment"] = {**synthetic.ENVIRONMENT, "load": [9.0, 1.0, 1.0], "date": "later"}
    assert not warnings(only(records))


def test_the_latest_run_of_each_title_is_compared():
    records = synthetic.records(TWO)
    older = {**records.runs[0], "cells": [], "started": "2026-11-21T00:00:00+00:00"}
    other = {**records.runs[0], "title": "another", "started": "2026-11-20T00:00:00+00:00"}
    records.runs += [older, other]
    assert [(c.title, len(c.rows)) for c in compare.compare(records)] == [
        ("another", 2),
        ("Which method for topics?", 2),
    ]


def test_each_model_and_task_is_its_own_comparison():
    subjects = [("minilm", "a"), ("minilm", "b"), ("bert", "a")]
    found = compare.compare(synthetic.records(TWO, subjects=subjects))
    assert [(each.model, each.task) for each in found] == subjects


def test_damaged_records_are_passed_on_as_warnings():
    records = synthetic.records(TWO)
    records.warnings.append("records.jsonl:7: this line is left out")
    assert "records.jsonl:7: this line is left out" in warnings(only(records))


def test_no_runs_no_comparisons():
    assert compare.compare(synthetic.Records()) == []


# -- words -------------------------------------------------------------------------------------------------


def test_verdicts_are_said_in_words():
    methods = {name: Method(f"lora(r={r})") for r, name in enumerate(["full", "up", "even", "down", "open"], start=1)}
    records = synthetic.records(methods)
    for r, by_seed in enumerate(
        [(0.75, 0.70, 0.80), (0.80, 0.752, 0.848), (0.751, 0.70, 0.799), (0.65, 0.59, 0.71), (0.77, 0.69, 0.81)],
        start=1,
    ):
        set_accuracy(records, f"lora(r={r})", dict(enumerate(by_seed)))
    assert headline(only(records))[0] == (
        "Beside the baseline `full` (accuracy 0.750 ± 0.124), `up` is better; `even` is the same within 1 point; "
        "`down` is worse; `open` is not settled."
    )


def test_among_those_as_good_as_the_baseline_the_cheapest_is_named():
    text = headline(only(synthetic.records(items=20_000)))
    assert text[1].startswith("Of those with the same or better accuracy, ")
    assert "`qlora`" not in text[1]  # which needs least memory, and is not known to be as good


def test_what_costs_as_much_as_the_baseline_wins_nothing():
    records = alike(synthetic.records({"full": Method("full"), "again": Method("full + none", step=0.99)}, noise=1e-4))
    text = " ".join(headline(only(records)))
    assert "`again` is the same" in text
    assert "fastest" not in text


def test_what_is_not_settled_wins_nothing():
    methods = {"full": Method("full"), "fast": Method("lora(r=8)", step=0.5)}
    text = " ".join(headline(only(synthetic.records(methods, items=50))))
    assert "`fast` is not settled" in text
    assert "fastest" not in text


def test_without_an_interval_what_is_near_is_not_called_a_win():
    near = {"full": Method("full"), "near": Method("lora(r=8)", step=0.97, memory=0.98, latency=0.97)}
    text = " ".join(headline(only(alike(synthetic.records(near, seeds=(0,))))))
    assert "fastest" not in text
    assert "least memory" not in text
    far = {"full": Method("full"), "far": Method("lora(r=8)", step=0.5)}
    text = " ".join(headline(only(alike(synthetic.records(far, seeds=(0,))))))
    assert "`far` trains fastest (3," in text
    assert "of `full`, no interval)" in text


def test_smaller_but_slower_is_said():
    text = " ".join(headline(only(synthetic.records())))
    assert "Smaller is not faster here" in text
    assert "`int8` (0.65× size on disk, but 1.73× latency 1×16)" in text


def test_who_is_slower_than_what_it_was_made_from_is_said():
    records = synthetic.compressed({"int8": 0.5, "nf4": 0.8, "half": 1.5})
    text = " ".join(headline(only(records)))
    assert "2 of 3 compressed models are slower than the one they were made from" in text
    assert "(latency 1×16, timed in turns): `int8` (0.500×) and `nf4` (0.800×)." in text
    assert "Smaller is not faster" not in text
    assert "slower than the one" not in " ".join(headline(only(synthetic.compressed({"half": 1.5}))))
    assert "slower than the one" not in " ".join(headline(only(synthetic.records())))


def test_where_all_share_one_training_its_cost_is_left_out_of_the_short_table():
    shared = only(synthetic.compressed({"int8": 0.5, "half": 1.5}))
    assert [metric.name for metric in shared.mains] == [
        "accuracy", "kl_divergence", "latency_1x16", "latency_1x16_speedup", "inference_peak_bytes", "size_on_disk",
    ]  # fmt: skip
    apart = only(synthetic.records())
    assert "train_peak_bytes" in [metric.name for metric in apart.mains]
    assert apart.gain is None


def test_each_process_has_its_own_figures():
    whole, row = (
        next(row for row in only(synthetic.divided()).rows if row.name == name) for name in ("full", "pipeline")
    )
    assert whole.processes == ()
    assert [each["weight_bytes"].value for each in row.processes] == [3_000_000, 2_000_000]
    assert [each["train_peak_bytes"].by_seed for each in row.processes] == [
        {0: 27_000_000, 1: 27_000_000},
        {0: 18_000_000, 1: 18_000_000},
    ]
    assert all(each["communicated_bytes"].value == 4096 for each in row.processes)
    assert not any("accuracy" in each or "train_tokens_per_second" in each for each in row.processes)


def test_a_chain_has_the_quality_after_each_stage():
    found = only(synthetic.compressed({"int8": 0.5}))
    row = next(row for row in found.rows if row.name == "int8")
    assert [stage for stage, _ in row.chain] == ["full", "int8"]
    (_, first), (_, last) = row.chain
    full = next(row for row in found.rows if row.is_baseline)
    assert first["accuracy"].value == full.figures["accuracy"].value
    assert last["accuracy"].value == row.figures["accuracy"].value
    assert "agreement" not in first
    assert last["agreement"].value == 0.96
    assert "final_loss" not in first


def test_one_seed_is_said_to_leave_training_noise_out():
    assert any("training noise is not covered" in text for text in headline(only(synthetic.records(seeds=(0,)))))
    assert not any("training noise" in text for text in headline(only(synthetic.records())))


def test_recipes_without_a_result_are_counted():
    text = headline(only(synthetic.records()))[-1]
    assert text.startswith("3 of 15 recipes are without a full result: ")
    assert "`two GPUs` (refused)" in text


def test_without_quality_only_cost_is_compared():
    records = synthetic.records(TWO)
    for record in records.nodes.values():
        record["quality"] = None
    comparison = only(records)
    assert comparison.primary is None
    assert headline(comparison)[0] == "Quality was not measured, so this compares cost only."


def test_when_all_fail_that_is_the_answer():
    records = synthetic.records(TWO)
    for record in records.nodes.values():
        record["status"] = "timeout"
    assert headline(only(records))[0] == "No recipe gave a result for every seed."


def test_one_recipe_alone_is_not_called_the_best():
    text = headline(only(synthetic.records({"full": Method("full")})))
    assert text[0].startswith("`full` has accuracy 0.")
    assert text[0].endswith("there is no other result to compare it with.")
    assert "highest" not in text[0]


def test_a_win_on_a_busy_machine_is_marked():
    methods = {"full": Method("full"), "fast": Method("lora(r=8)", step=0.5)}
    text = " ".join(headline(only(alike(synthetic.records(methods, contended=("full",))))))
    assert "tokens/s ⚠, " in text


def test_backticks_in_names_do_not_break_sentences():
    text = headline(only(synthetic.records({"a`b": Method("full")})))
    assert all(sentence.count("`") % 2 == 0 for sentence in text)


# -- facts -------------------------------------------------------------------------------------------------


def test_the_answer_is_facts():
    records = synthetic.records(TWO)
    set_accuracy(records, "full", {0: 0.75, 1: 0.70, 2: 0.80})
    set_accuracy(records, "lora(r=8)", {0: 0.65, 1: 0.59, 2: 0.71})
    (found, *_) = answer(only(records))
    assert isinstance(found, Verdicts)
    assert (found.baseline.name, found.metric.name, found.margin) == ("full", "accuracy", 0.01)
    assert {verdict: [row.name for row in rows] for verdict, rows in found.rows.items()} == {
        "better": [], "worse": ["other"], "same": [], "not settled": []
    }  # fmt: skip


def test_doubts_are_facts():
    records = synthetic.records(TWO, contended=("full",))
    records.warnings += [f"line {number}" for number in range(23)]
    records.runs[0]["baseline"] = "nobody"
    assert list(only(records).doubts)[20:] == [MoreUnread(3), NoBaseline("nobody"), Busy(("full",))]


# -- the Pareto front --------------------------------------------------------------------------------------


def test_the_front_by_hand():
    points = [(1.0, 0.5), (2.0, 0.7), (2.5, 0.6), (3.0, 0.9), (2.0, 0.7), (3.5, 0.9)]
    assert front(points) == [0, 1, 4, 3]
    assert front(points, ("higher", "higher")) == [5]
    assert front([]) == []


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12),
    st.tuples(*[st.sampled_from(["lower", "higher"])] * 2),
)
def test_the_front_is_what_nothing_dominates(points, better):
    def at_least(a, b):
        return all(x >= y if d == "higher" else x <= y for x, y, d in zip(a, b, better, strict=True))

    expected = {
        i for i, point in enumerate(points) if not any(at_least(other, point) and other != point for other in points)
    }
    found = front(points, better)
    assert set(found) == expected
    assert len(found) == len(expected)
    for a, b in itertools.pairwise(found):
        assert at_least((points[a][0], 0), (points[b][0], 0))


# -- what is promised of the numbers -----------------------------------------------------------------------


@pytest.mark.slow
def test_recipes_that_are_the_same_are_seldom_told_apart():
    # Twenty recipes that differ in nothing but noise, thirty times: false alarms of 95 % intervals, and of suites in accuracy.
    alarms = tests = suites = 0
    for round_ in range(30):
        methods = {f"same {i}": Method(f"full(lr=0.{i:03})") for i in range(21)}
        records = synthetic.records(methods, subjects=[("minilm", f"round {round_}")], items=300, steps=8)
        records.runs[0]["margins"] = {"quality": 0.0, "cost": 0.0}
        rows = only(records).rows[1:]
        suites += any(row.changes["accuracy"].verdict in ("better", "worse") for row in rows)
        for row in rows:
            for name in ("train_peak_bytes", "latency_1x16"):
                alarms += row.changes[name].verdict in ("better", "worse")
                tests += 1
    assert 0.005 < alarms / tests < 0.08
    assert suites <= 5  # of 30, of which 1.5 are expected


def test_what_could_not_be_measured_is_said_with_its_reason_and_the_rest_is_there():
    records = synthetic.records()
    node = next(node for node in records.nodes.values() if node["recipe"] == "lora(r=8)")
    other = next(node for node in records.nodes.values() if node["recipe"] == "ia3")
    for each in (node, other):
        each["absent"] = {"step_flops": "out of memory: tried `69 GB`"}
    node["absent"]["latency_8x64"] = "timeout: 60 s"
    comparison = only(records)
    assert "Not measured: FLOPs a step of `lora r=8` and `ia3`: out of memory: tried '69 GB'." in warnings(comparison)
    assert "Not measured: Latency 8×64 of `lora r=8`: timeout: 60 s." in warnings(comparison)
    row = rows(records)["lora r=8"]
    assert row.ok
    assert row.figures["accuracy"]


def test_what_ran_on_another_card_than_the_baseline_is_said():
    records = synthetic.records()
    for node in records.nodes.values():
        other = node["recipe"] == "ia3" and node["seed"] == 1
        node["gpus"] = [{"name": "H100", "uuid": f"card-{node['seed'] + 5 * other}"}]
    (said,) = [text for text in warnings(only(records)) if "card" in text]
    assert said.startswith("Not on the card of the baseline `full` for each seed: `ia3`.")


def test_the_tasks_primary_metric_ranks():
    records = synthetic.records(TWO)
    for recipe, right, f1 in (("full", 0.9, 0.2), ("lora(r=8)", 0.5, 0.8)):
        for seed in (0, 1, 2):
            node(records, seed, recipe)["quality"]["metrics"] = {"accuracy": right, "macro_f1": f1}
    assert only(records).primary.name == "accuracy"  # of records that do not say
    records.runs[-1]["primary"] = {"stdlib-topics": "macro_f1"}
    found = only(records)
    assert found.mains[0].name == found.primary.name == "macro_f1"
    assert "accuracy" not in {metric.name for metric in found.mains}
    assert headline(found)[0].startswith("Beside the baseline `full` (macro f1 0.200")


def test_a_metric_says_of_itself_where_it_is_shown(monkeypatch):
    best = Summary(order=25, best="waits least")
    waiting = Metric(
        "waits", "Waits", "s", "lower", "time", "f", last_training("data_seconds"), about="training", summary=best
    )
    monkeypatch.setattr(compare.registry, "metrics", lambda: {**metrics(), "waits": waiting})
    records = synthetic.records(TWO)
    for recipe, seconds in (("full", 4.0), ("lora(r=8)", 1.0)):
        for seed in (0, 1, 2):
            node(records, seed, recipe)["training"]["data_seconds"] = seconds
    found = only(alike(records))
    names = [metric.name for metric in found.mains]
    assert names.index("train_tokens_per_second") + 1 == names.index("waits") == names.index("train_peak_bytes") - 1
    assert any("waits least (1.00 s" in sentence for sentence in headline(found))


def test_a_recorded_figure_without_a_metric_is_named():
    records = synthetic.records(TWO)
    node(records, 0, "full")["quality"]["metrics"]["novel"] = 0.5
    assert any("no metric of that name is registered here: `novel`" in text for text in warnings(only(records)))


def test_references_are_no_rows_and_of_no_other_model_and_not_of_what_failed():
    records = synthetic.referenced()
    _, second, third = records.references
    (found,) = compare.compare(records)
    chance, untrained = found.references
    assert (chance.name, untrained.name) == ("chance", "untrained")
    assert untrained.figures["accuracy"].by_seed == pytest.approx({0: 0.1, 1: 0.12, 2: 0.14})
    assert chance.figures["accuracy"].interval is None
    assert not {"chance", "untrained"} & {row.name for row in found.rows}
    other, failed = dict(records.references[second]), dict(records.references[third])
    records.references[second] = Reference.of({**other, "model": "another"})
    records.references[third] = Reference.of({**failed, "status": "oom", "untrained": None})
    (found,) = compare.compare(records)
    assert found.references[1].figures["accuracy"].by_seed == {0: 0.1}
    records.runs[0]["references"] = None
    (found,) = compare.compare(records)
    assert found.references == ()


def test_a_cell_alone_is_a_row_of_one_seed_with_its_stages():
    found = compare.Comparisons(synthetic.records(methods={**TWO, "int8": Method("full >> int8")}, seeds=(0, 1)))
    alone = list(found.alone())
    assert [(each.cell.name, each.cell.seed) for each in alone] == [
        (name, seed) for seed in (0, 1) for name in (*TWO, "int8")
    ]
    assert [node.id for node in alone[2].path] == alone[2].cell.path
    whole = {row.name: row for row in found[0].rows}
    for each in alone:
        assert each.row.seeds == (each.cell.seed,)
        for name, figure in whole[each.cell.name].figures.items():
            assert each.row.figures[name].value == figure.by_seed[each.cell.seed]
    full = alone[0].cell.path[0]
    assert [each.cell.name for each in found.alone(full)] == ["full", "int8"]
