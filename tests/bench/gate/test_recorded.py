"""Checks of records: each kind of figure, what one side lacks, and values that no verdict can come of."""

import copy
import math

import pytest

from bench.gate.recorded import checks, tests_of
from bench.suite.gate import GateTable
from bench.suite.suite import SuiteError
from tests import synthetic
from tests.synthetic import Method

count = tests_of  # pytest would take it for a test
del tests_of
FULL = {"full": Method("full")}


def table(**keys):
    return GateTable.model_validate(keys or {"size": "1%", "quality": "1 point"})


def changed(change, methods=FULL, **options):
    """Records of a base, and the same after `change` was called with each stage's record of the head."""
    base = synthetic.records(methods, **options)
    head = copy.deepcopy(base)
    for node in head.nodes.values():
        change(node)
    return base, head


def check(base, head, gate, tests=1, **options):
    (found,) = checks(base, head, gate, tests=tests, **options)
    return found


def test_the_same_records_pass_whatever_is_gated():
    base = synthetic.records(FULL)
    gate = table(throughput="3%", latency="3%", peak_memory="16 MiB", size="1%", flops="1%", quality="1 point")
    found = checks(base, base, gate, tests=10, stored=True)
    assert {each.metric for each in found} == {
        "accuracy", "train_tokens_per_second", "train_peak_bytes", "inference_peak_bytes", "size_on_disk", "step_flops",
        *(f"{cpu}latency_{shape}" for cpu in ("", "cpu_") for shape in ("1x16", "8x64")),
    }  # fmt: skip
    assert {(each.outcome, each.change) for each in found} == {("pass", 0.0)}


@pytest.mark.parametrize(("grown", "outcome"), [(1.0, "pass"), (1.01, "pass"), (1.0101, "regression"), (0.5, "pass")])
def test_what_is_counted_is_compared_exactly(grown, outcome):
    found = check(*changed(lambda node: node["size"].update(bytes=90_900_000 * grown)), table(size="1%"))
    assert (found.outcome, found.how, found.scale) == (outcome, "exact", "ratio")
    assert found.change == pytest.approx(grown - 1)
    assert (found.base, found.p_value) == (90_900_000, None)


def test_a_base_of_zero_allows_a_share_of_nothing():
    def sends(node):
        node["training"]["communicated_bytes"] = 8

    base, head = changed(sends)
    for node in base.nodes.values():
        node["training"]["communicated_bytes"] = 0
    found = check(base, head, table(communicated_bytes="5%"))
    assert (found.outcome, found.change) == ("regression", None)
    assert "the base has 0" in found.reason


def test_a_count_that_seeds_disagree_on_is_judged_over_seeds():
    sizes = {0: 100, 1: 104, 2: 97}

    def grow(node):
        node["size"]["bytes"] = sizes[node["seed"]] * 1.2 + node["seed"]

    base, head = changed(grow)
    for node in base.nodes.values():
        node["size"]["bytes"] = sizes[node["seed"]]
    assert count(base, head, table(size="1%")) == 1
    found = check(base, head, table(size="1%"))
    logs = [math.log((size * 1.2 + seed) / size) for seed, size in sizes.items()]
    assert found.change == pytest.approx(math.expm1(sum(logs) / 3))
    assert (found.outcome, found.how, found.pairs) == ("regression", "items", 3)
    assert found.p_value < 0.01
    assert "no exact count" in found.reason

    def grow_alike(node):
        node["size"]["bytes"] += 5_000_000

    # Sizes may differ by seed and still be counted: here each seed's grows by the same.
    assert check(*changed(grow_alike), table(size="10%")).how == "exact"


def right(share, of=560):
    def change(node):
        node["quality"]["correct"] = [int(i < share * of) for i in range(of)]
        node["quality"]["metrics"] = {"accuracy": sum(node["quality"]["correct"]) / of}

    return change


def test_a_drop_of_quality_is_found_over_seeds_and_items():
    found = check(*changed(lambda node: right(0.6)(node)), table(quality="1 point"), tests=40)
    assert (found.outcome, found.how, found.pairs) == ("regression", "items", 560)
    assert found.change == pytest.approx(found.base - found.head)
    assert found.level == pytest.approx(0.01 / 40)
    low, high = found.interval
    assert 0.01 < low < found.change < high
    # The other way round it is a gain.
    base, head = changed(lambda node: right(0.6)(node))
    assert check(head, base, table(quality="1 point")).outcome == "pass"


def test_a_few_items_of_many_are_not_inferior():
    def lose_one(node):
        node["quality"]["correct"][node["seed"]] = 0
        node["quality"]["metrics"]["accuracy"] = sum(node["quality"]["correct"]) / 560

    base, _ = changed(right(0.75))
    for node in base.nodes.values():
        right(0.75)(node)
    head = copy.deepcopy(base)
    for node in head.nodes.values():
        lose_one(node)
    found = check(base, head, table(quality="1 point"))
    assert (found.outcome, found.change) == ("pass", pytest.approx(1 / 560))


def test_a_drop_that_the_items_cannot_tell_is_inconclusive():
    def swap(node):
        half = [1, 0] * 280
        node["quality"]["correct"] = half if node["seed"] != 1 else half[::-1]
        node["quality"]["metrics"]["accuracy"] = 0.5

    base, head = changed(lambda node: swap(node))
    for node in base.nodes.values():
        right(0.5)(node)
    found = check(base, head, table(quality="1 point"))
    assert (found.outcome, found.change) == ("inconclusive", pytest.approx(0))
    assert "smallest detectable change" in found.reason


def test_one_seed_is_judged_over_items_and_says_so():
    found = check(*changed(right(0.6), seeds=(0,)), table(quality="1 point"))
    assert found.outcome == "regression"
    assert "test items alone" in found.reason


def test_other_test_items_give_no_verdict():
    found = check(*changed(right(0.6, of=500)), table(quality="1 point"))
    assert (found.outcome, found.reason) == ("inconclusive", "the two sides have different test items")


def quality(values, name="accuracy"):
    def change(node):
        node["quality"] = {"metrics": {name: values[node["seed"]]}}

    return change


@pytest.mark.parametrize(
    ("base", "head", "outcome", "says"),
    [
        ((0.70, 0.75, 0.80), (0.60, 0.66, 0.69), "regression", ""),
        ((0.70, 0.75, 0.80), (0.70, 0.75, 0.80), "pass", ""),
        ((0.50, 0.75, 1.00), (0.25, 0.50, 0.75), "inconclusive", "does not vary"),
        ((0.70, 0.75, 0.80), (0.69, 0.76, 0.70), "inconclusive", "smallest detectable change"),
        ((0.70, 0.75, 0.80), (None, None, None), "inconclusive", "the head has no figure, and the base has one"),
        ((None, None, None), (0.70, 0.75, 0.80), "skipped", "the base has no figure: it was not measured"),
    ],
)
def test_quality_without_items_is_judged_over_seeds(base, head, outcome, says):
    before, after = changed(quality(head))
    for node in before.nodes.values():
        quality(base)(node)
    found = check(before, after, table(accuracy="1 point"))
    assert found.outcome == outcome
    assert says in found.reason


def test_a_quality_that_is_better_lower_turns_the_other_way():
    base, head = changed(quality((1.30, 1.41, 1.50), "bits_per_byte"))
    for node in base.nodes.values():
        quality((1.20, 1.30, 1.40), "bits_per_byte")(node)
    found = check(base, head, table(bits_per_byte="0.01 bits"))
    assert (found.outcome, found.change) == ("regression", pytest.approx(0.31 / 3))
    assert check(head, base, table(bits_per_byte="0.01 bits")).outcome == "pass"
    with pytest.raises(SuiteError, match=r"gate\.quality: its tolerance is in bits.*`bits_per_byte` ranks"):
        check(base, head, table(quality="1 point"))


@pytest.mark.parametrize(
    ("base", "head", "outcome", "says"),
    [
        (
            Method("lora", refused=("no GPU",)),
            Method("lora", refused=("no GPU",)),
            "skipped",
            "neither side has a figure: the recipe is refused: no GPU",
        ),
        (Method("lora", status="oom"), Method("lora"), "skipped", "the base has no figure: the recipe is oom"),
        (Method("lora"), Method("lora", status="oom", reason="4 GB"), "inconclusive", "the recipe is oom: 4 GB"),
        (Method("lora"), Method("lora", status="oom", seeds=(1,)), "inconclusive", "seed 1 ended oom in the head"),
        (None, Method("lora"), "skipped", "the base has no figure: it has no such recipe"),
        (Method("lora"), None, "inconclusive", "it has no such recipe"),
    ],
)
def test_what_one_side_lacks(base, head, outcome, says):
    sides = [synthetic.records(FULL | ({"other": method} if method else {})) for method in (base, head)]
    found = {each.recipe: each for each in checks(*sides, table(size="1%"), tests=1)}
    assert found["full"].outcome == "pass"
    assert found["other"].outcome == outcome
    assert says in found["other"].reason
    assert count(*sides, table(size="1%")) == 0


def test_without_a_seed_in_common_nothing_is_said():
    sides = [synthetic.records(FULL, seeds) for seeds in ((0, 1), (2, 3))]
    assert "no seed in common" in check(*sides, table(size="1%")).reason


def test_a_negative_count_gives_no_verdict():
    found = check(*changed(lambda node: node["size"].update(bytes=-1)), table(size="1%"))
    assert (found.outcome, found.reason) == ("inconclusive", "a value is negative")


# -- timings and memory, of stored records -----------------------------------------------------------------


def slower(by):
    def change(node):
        node["training"]["step_seconds"] = [
            seconds * by * (1 + node["seed"] / 1000) for seconds in node["training"]["step_seconds"]
        ]

    return change


def test_timings_are_left_to_the_gates_own_pairs_unless_all_is_stored():
    base, head = changed(slower(1.2))
    gate = table(throughput="3%")
    assert checks(base, head, gate, tests=1) == []
    assert (count(base, head, gate), count(base, head, gate, stored=True)) == (0, 1)
    found = check(base, head, gate, stored=True)
    assert (found.outcome, found.how, found.clock, found.pairs) == ("regression", "stored", "wall", 3)
    assert found.change == pytest.approx(0.2 * 1.001, rel=0.01)
    assert check(base, changed(slower(0.9))[1], gate, stored=True).outcome == "pass"


def test_one_seed_of_a_timing_gives_no_verdict():
    found = check(*changed(slower(2), seeds=(0,)), table(throughput="3%"), stored=True)
    assert found.outcome == "inconclusive"
    assert "at least two" in found.reason


def test_a_timing_of_a_busy_machine_gives_no_verdict():
    base, head = changed(slower(1.2), contended=("full",))
    found = check(base, head, table(throughput="3%"), stored=True)
    assert found.outcome == "inconclusive"
    assert "the base was timed on a busy machine: CPU time was 61 %" in found.reason


def test_a_timing_of_zero_has_no_ratio():
    base, head = changed(lambda node: node["training"].update(tokens=[0] * 60))
    assert "0, which has no ratio" in check(base, head, table(throughput="3%"), stored=True).reason


def test_memory_that_all_seeds_agree_on_is_counted():
    def leak(node):
        node["training"]["peak_bytes"] += 64 * 2**20

    found = check(*changed(leak), table(train_peak_bytes="16 MiB"), stored=True)
    assert (found.outcome, found.how, found.change) == ("regression", "exact", 64 * 2**20)
    found = check(*changed(leak, seeds=(0,)), table(train_peak_bytes="16 MiB"), stored=True)
    assert (found.outcome, found.how) == ("inconclusive", "stored")


def test_each_model_and_task_has_its_own_checks():
    subjects = (("minilm", "stdlib-topics"), ("minilm", "stdlib-code"))
    base = synthetic.records(FULL, subjects=subjects)
    found = checks(base, base, table(size="1%"), tests=1)
    assert [each.recipe for each in found] == ["full (minilm, stdlib-topics)", "full (minilm, stdlib-code)"]
