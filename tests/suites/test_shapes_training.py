"""The shapes of docs/shapes.md: what is counted, by hand and on a tiny model; the rest by the whole suite, slowly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare.compare import compare
from bench.compare.rows import change
from bench.metrics.registry import metrics
from bench.recipe.recipe import parse
from bench.record.reading import read
from bench.stage.tiny_llama import CONFIG
from bench.suite import suite
from bench.suite.margins import Margins
from bench.testing import jobs

SUITE = Path(__file__).parents[2] / "suites/shapes-training.toml"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FORWARD = ("gate_proj", "up_proj", "down_proj")
HIDDEN, LAYERS, HEADS, GROUPS, INNER, TOKENS = 32, 2, 4, 2, 64, 259
"""Of the fixture tiny_llama."""


def sides(hidden, heads, groups, inner):
    """Inputs and outputs of each linear layer of a block."""
    narrow = hidden * groups // heads
    return {
        "q_proj": (hidden, hidden), "k_proj": (hidden, narrow), "v_proj": (hidden, narrow), "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
    }  # fmt: skip


BLOCK = sides(HIDDEN, HEADS, GROUPS, INNER)


def training(text, model, folder):
    budget = {"steps": 3, "batch_size": 8, "max_length": 16}
    measure = {"quality": False, "size": False, "latency": []}
    status, reason, (record,) = jobs.run(text, model, folder, task=jobs.prose(folder), budget=budget, measure=measure)
    assert (status, reason) == ("ok", "")
    return record["training"]


def flops(batch, length, block, *, hidden, layers, vocabulary, r=None):
    """A step of full fine-tuning, or of LoRA of rank `r` on query and value, by hand.

    A product of matrices costs as much as each of its two gradients. LoRA takes the frozen weights' gradients away;
    and in the first block, whose input does not depend on what is trained, those of the input of query, key and value,
    and attention's gradient of the keys. The products in attention have no weights: they cost the same as before.
    """
    tokens = 2 * batch * length
    weights = layers * sum(wide * high for wide, high in block.values()) + vocabulary * hidden
    attention = 2 * batch * length * length * hidden  # one product over all heads
    if r is None:
        return 3 * tokens * weights + 6 * layers * attention
    first = sum(block[name][0] * block[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    downs = [layers * r * block[name][0] for name in ("q_proj", "v_proj")]
    ups = [layers * r * block[name][1] for name in ("q_proj", "v_proj")]
    adapter = 3 * (sum(downs) + sum(ups)) - sum(downs) // layers
    return tokens * (2 * weights - first + adapter) + (6 * layers - 1) * attention


TINY = {"block": BLOCK, "hidden": HIDDEN, "layers": LAYERS, "vocabulary": TOKENS}
REAL = {
    "block": sides(*(CONFIG[f"{of}"] for of in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"))),
    "hidden": CONFIG["hidden_size"], "layers": CONFIG["num_hidden_layers"], "vocabulary": CONFIG["vocab_size"],
}  # fmt: skip


def test_flops_of_a_lora_step_fall_with_the_rank(tiny_llama, tmp_path):
    full = training("full", tiny_llama, tmp_path)["step_flops"]
    assert full == flops(8, 16, **TINY)
    seen = [training(f"lora(r={r})", tiny_llama, tmp_path)["step_flops"] for r in (8, 4, 1)]
    assert seen == [flops(8, 16, **TINY, r=r) for r in (8, 4, 1)]
    assert full > seen[0] > seen[1] > seen[2]


def test_where_the_flops_of_a_lora_step_tend_to():
    def ratio(r, length=128, layers=CONFIG["num_hidden_layers"]):
        shape = {**REAL, "layers": layers}
        return flops(4, length, **shape, r=r) / flops(4, length, **shape)

    # On tiny-llama, over 2/3: an eighth of a step is attention's own products.
    assert ratio(0) == pytest.approx(0.698, abs=5e-4)
    # Two thirds but for that, and for what the first block saves.
    assert ratio(0, length=1, layers=100) == pytest.approx(2 / 3, abs=2e-3)


@pytest.mark.parametrize("r", [1, 8])
def test_bytes_of_gradients_and_optimizer_state(tiny_llama, tmp_path, r):
    full = training("full", tiny_llama, tmp_path)
    lora = training(f"lora(r={r})", tiny_llama, tmp_path)
    norms = 2 * LAYERS + 1
    every = LAYERS * sum(wide * high for wide, high in BLOCK.values()) + HIDDEN * (norms + 2 * TOKENS)
    adapter = LAYERS * r * sum(sum(BLOCK[name]) for name in ("q_proj", "v_proj"))
    for record, count, tensors in ((full, every, 7 * LAYERS + norms + 2), (lora, adapter, 2 * 2 * LAYERS)):
        assert record["trainable"] == count
        assert record["gradient_bytes"] == 4 * count
        # Adam's two moments, and of each tensor the count of steps.
        assert record["optimizer_bytes"] == 2 * 4 * count + 4 * tensors


def test_saved_activations(tiny_llama, tmp_path):
    # Equal they are not: a frozen layer saves no input, nor does a norm, and of an adapter's layers the input is saved.
    full = training("full", tiny_llama, tmp_path)["activation_bytes"]
    few, all_ = (
        training(f"lora(r=1{targets})", tiny_llama, tmp_path)["activation_bytes"]
        for targets in ("", f", targets={ATTENTION + FORWARD}")
    )
    assert 0.6 < few / full < 0.85
    assert 0.85 < all_ / full < 1


def test_attention_and_feed_forward_have_equal_parameters():
    block = REAL["block"]

    def weights(name):
        (stage,) = parse(suite.load(SUITE).recipes[name]).stages
        assert set(stage.main.targets) == set(ATTENTION if name.startswith("attention") else FORWARD)
        return stage.main.r * sum(sum(block[target]) for target in stage.main.targets)

    assert weights("attention") == weights("forward") == 40_320
    assert (weights("attention-16"), weights("forward-10")) == (14_336, 14_400)


# -- the whole suite -------------------------------------------------------------------------------------------

RATES = {
    "full": ("full", "full-6e-4", "full-2e-3", "full-6e-3"),
    "lora": ("lora-1e-3", "lora", "lora-1e-2", "lora-3e-2"),
    "rank-1": ("rank-1", "rank-1-1e-2"),
}


def slow(test):
    return pytest.mark.timeout(3 * 3600)(pytest.mark.slow(test))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every row of the suite, after half an hour; METHODBENCH_SHAPES names a folder of results to go on in."""
    out = Path(os.environ.get("METHODBENCH_SHAPES") or tmp_path_factory.mktemp("shapes")) / SUITE.stem
    subprocess.run([Path(sys.executable).parent / "methodbench", "run", SUITE, "--out", out], check=True)
    (comparison,) = compare(read(out))
    assert len(comparison.seeds) >= 5
    assert all(row.ok for row in comparison.rows)
    return {row.name: row for row in comparison.rows}


def best(rows, names):
    """The row of the rate that learns most."""
    return min((rows[name] for name in names), key=lambda row: row.figures["bits_per_byte"].value)


def verdict(metric, ours, theirs):
    """What the report's interval shows of `ours` beside `theirs`, where any difference matters, however small."""
    found = change(metrics()[metric], ours, theirs, Margins(quality=0))
    assert found is not None
    print(f"{metric}: {ours.name} beside {theirs.name}: {found} ({found.ends}, {found.covers}), {found.verdict}")
    return found.verdict


@slow
@pytest.mark.parametrize("rates", ["default", "best"])
def test_lower_ranks_learn_less_and_forget_less(rows, rates):
    full, lora, least = (rows[name] if rates == "default" else best(rows, names) for name, names in RATES.items())
    assert verdict("bits_per_byte", lora, full) == "worse"
    assert verdict("bits_per_byte", least, lora) == "worse"
    assert verdict("forgetting", lora, full) == "better"
    assert verdict("forgetting", least, lora) == "better"


@slow
@pytest.mark.parametrize(("forward", "attention"), [("forward", "attention"), ("forward-10", "attention-16")])
def test_lora_on_the_feed_forward_beats_attention(rows, forward, attention):
    assert verdict("bits_per_byte", rows[forward], rows[attention]) == "better"


@slow
def test_the_best_rate_of_lora_is_3_to_30_times_that_of_full(rows):
    recipes = suite.load(SUITE).parsed()

    def rates(names):
        """The best rate, and those that are not shown to differ from it."""
        first = best(rows, names)
        assert first.name not in (names[0], names[-1]), "a better one may lie outside"
        good = [
            name
            for name in names
            if rows[name] is first or verdict("bits_per_byte", rows[name], first) == "not settled"
        ]
        return [recipes[name].stages[0].main.lr for name in good]

    assert all(3 <= lora / full <= 30 for lora in rates(RATES["lora"]) for full in rates(RATES["full"]))


@slow
def test_what_a_step_takes_is_what_one_counts(rows):
    full = rows["full"].figures
    assert full["step_flops"].value == flops(4, 128, **REAL)
    assert full["gradient_bytes"].value == 4 * 1_054_080
    assert full["optimizer_bytes"].value == 8 * 1_054_080 + 4 * (5 * 9 + 2)
    for name, r in (("lora", 8), ("rank-1", 1)):
        lora = rows[name].figures
        assert lora["step_flops"].value == flops(4, 128, **REAL, r=r)
        assert 2 / 3 < lora["step_flops"].value / full["step_flops"].value < 0.72
        assert lora["gradient_bytes"].value == 4 * 2_240 * r
        assert lora["optimizer_bytes"].value == 8 * 2_240 * r + 4 * 20
