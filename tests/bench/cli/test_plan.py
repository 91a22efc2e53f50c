"""``methodbench plan``."""

from tests.command import methodbench


def test_plan_draws_the_tree_and_says_why_not(suite, tmp_path):
    text = methodbench("plan", suite('full = "full"\nint8 = "full >> torch_int8_dynamic"\nbad = "merge"'))
    assert "full  full  to run" in text
    assert "└── torch_int8_dynamic  int8  to run" in text
    assert "2 stages (3 without sharing), 0 recorded, 2 to run" in text
    assert "\ndata: 120 texts read; " in text
    assert "refused  bad: merge: there is no adapter to fold" in methodbench(
        "plan", tmp_path / "suite.toml", errors=True
    )


def test_plan_counts_in_words_that_fit(suite):
    text = methodbench("plan", suite('full = "full"'))
    assert "1 stage (1 without sharing), 0 recorded, 1 to run" in text
    assert ", seed 0\n" in text
    assert methodbench("plan", suite('bad = "merge"'), status=2).startswith("refused  bad: merge: there is no adapter")
