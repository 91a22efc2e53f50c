"""The untrained model, as a first stage finds it, and a guess."""

from dataclasses import replace

import pytest

from bench.execute.worker import attempt
from bench.tasks.registry import open_task
from bench.testing import jobs


def scored(model, folder, **keys):
    status, reason, measured = attempt(replace(jobs.job("full", model, folder, **keys), what="untrained"), jobs.quiet)
    assert (status, reason) == ("ok", "")
    return measured


@pytest.mark.parametrize("seed", [0, 3])
def test_it_is_scored_as_a_stage_scores_and_a_new_head_is_that_of_its_seed(tiny_bert, tmp_path, seed):
    untrained = scored(tiny_bert, tmp_path, seed=seed)["untrained"]
    _, _, (record,) = jobs.run("full(lr=1e-7)", tiny_bert, tmp_path, seed=seed)  # a training that changes no answer
    assert untrained["correct"] == record["quality"]["correct"]
    assert untrained["metrics"] == pytest.approx(record["quality"]["metrics"], rel=1e-3)
    assert untrained["predictions"] == record["quality"]["predictions"]


def test_a_guess_is_scored_beside_it(tiny_bert, tmp_path):
    chance = scored(tiny_bert, tmp_path)["chance"]
    assert chance["metrics"] == open_task(jobs.table(tmp_path), tmp_path).chance(None, 32).metrics
    assert chance["about"].startswith("the most frequent class")


def test_a_decoder_is_scored_too(tiny_llama, tmp_path):
    measured = scored(tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    names = {"bits_per_byte", "perplexity", "token_accuracy"}
    assert set(measured["untrained"]["metrics"]) == set(measured["chance"]["metrics"]) == names


def test_it_leaves_no_checkpoint(tiny_bert, tmp_path):
    scored(tiny_bert, tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []
