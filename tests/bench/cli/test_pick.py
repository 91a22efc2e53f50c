"""``methodbench pick``: what it prints, and its exit status."""

import json
import subprocess

import pytest

from tests import synthetic
from tests.command import METHODBENCH, methodbench


@pytest.fixture
def folder(tmp_path):
    return synthetic.write(synthetic.records(), tmp_path / "results")


def test_it_answers_with_a_recipe_its_figures_and_what_is_uncertain(folder):
    text = methodbench("pick", folder, "--max", "peak_memory=0.6GiB", "--min", "accuracy=0.74", "--by", "throughput")
    lines = text.splitlines()
    assert lines[0] == "bf16 full  (minilm · stdlib-topics)"
    assert lines[2].startswith(
        "  Training throughput  3,464 ± 43.0 tokens/s; beside full: 1.91× (1.88 to 1.94), better"
    )
    assert "accuracy ≥ 0.74 may not hold: the interval is 0.727 to 0.756" in lines
    assert (
        "accuracy ≥ 0.74 excludes 5 of 15 recipes; the nearest that keeps to all else is bitfit with 0.699 ± 0.014"
        in lines
    )
    assert (
        "No full result: adamw, lr too high (diverged (2 of 3 seeds ok)), ensemble of 8 (oom), two GPUs (refused)"
        in lines
    )


def test_as_json_it_has_all_that_was_excluded(folder):
    text = methodbench("pick", folder, "--min", "quality=70%", "--max", "latency=11ms", "--by", "size", "--json")
    (found,) = json.loads(text)["picks"]
    assert found["name"] == found["candidates"][0] == "half FFN"
    assert set(found["figures"]) == {"accuracy", "latency_1x16", "size_on_disk"}
    quality, latency = sorted(found["bounds"], key=lambda bound: bound["metric"], reverse=True)
    assert [each["name"] for each in quality["excluded"]] == ["bitfit", "ia3", "head only"]
    assert latency["limit"] == 0.011
    assert set(found["without_result"]) == {"adamw, lr too high", "ensemble of 8", "two GPUs"}


def test_without_a_recipe_it_ends_with_1_and_says_what_excludes_most(folder):
    words = [METHODBENCH, "pick", folder, "--max", "latency=3us", "--min", "accuracy=0.72"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[:2] == [
        "No recipe  (minilm · stdlib-topics)",
        "latency ≤ 3us excludes 12 of 15 recipes; the nearest that keeps to all else is half FFN with 7.59 ms ± 35.9 µs",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max", "latancy=3ms"], "did you mean `latency`?"),
        (["--max", "latency"], "as peak_memory=8GiB; found 'latency'"),
        (["--max", "latency=3ms", "--max", "latency=4ms"], "latency is given twice"),
        (["--min", "accuracy=much"], "found 'much'"),
        (["--by", "speed"], "by speed: no metric is called so"),
    ],
)
def test_wrong_use_is_2(folder, words, says):
    assert says in " ".join(methodbench("pick", folder, *words, status=2).split())


def test_a_folder_without_records_is_named(tmp_path):
    assert "there are no records in it" in methodbench("pick", tmp_path, status=2)
