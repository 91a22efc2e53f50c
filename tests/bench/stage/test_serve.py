"""Inference of what a stage left, in this process."""

import dataclasses

import pytest
import torch

from bench.measure import latency
from bench.stage import serve
from bench.testing import jobs

MEASURE = {"latency": [(1, 8), (2, 4)], "latency_samples": 3}


def served(text, model, folder, **keys):
    status, reason, _ = jobs.run(text, model, folder, measure=MEASURE, **keys)
    assert status == "ok", reason
    one = jobs.job(text, model, folder, measure=MEASURE, **keys)
    return serve.run(dataclasses.replace(one, what="serve"), jobs.quiet)


def test_a_model_that_nothing_compressed_is_timed_alone(tiny_bert, tmp_path):
    found = served("full", tiny_bert, tmp_path)
    assert [(entry["batch"], entry["length"], entry["clock"]) for entry in found["latency"]] == [
        (1, 8, "wall"), (1, 8, "cpu"), (2, 4, "wall"), (2, 4, "cpu")
    ]  # fmt: skip
    assert not any("uncompressed" in entry for entry in found["latency"])
    assert found["inference"]["peak_bytes"] >= 0
    assert found["inference"]["load_peak_bytes"] >= 0


@pytest.mark.parametrize("text", ["full >> half", "half", "full >> distill(layers=1)"])
def test_a_compressed_model_is_timed_in_turns_with_the_uncompressed_one(tiny_bert, tmp_path, text, monkeypatch):
    loaded = []
    real = serve.uncompressed_model
    monkeypatch.setattr(serve, "uncompressed_model", lambda *given: loaded.append(real(*given)) or loaded[-1])
    found = served(text, tiny_bert, tmp_path)
    assert {len(entry["uncompressed"]["values"]) for entry in found["latency"]} == {3}
    (whole,) = loaded
    assert {str(parameter.dtype) for parameter in whole.parameters()} == {"torch.float32"}
    assert len(whole.bert.encoder.layer) == 2


def test_a_decoder_has_an_uncompressed_model_in_each_phase(tiny_llama, tmp_path):
    found = served("full >> half", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert {entry["phase"] for entry in found["latency"] if "uncompressed" in entry} == {"prefill", "decode"}


def test_a_shape_that_cannot_be_timed_is_absent_and_the_others_are_there(tiny_bert, tmp_path, monkeypatch):
    real = latency.encoder

    def encoder(model, vocabulary, shape, **options):
        if shape == (2, 4):
            raise torch.AcceleratorError("CUDA error: out of memory")
        return real(model, vocabulary, shape, **options)

    monkeypatch.setattr(latency, "encoder", encoder)
    found = served("full >> half", tiny_bert, tmp_path)
    assert {(entry["batch"], entry["length"]) for entry in found["latency"]} == {(1, 8)}
    said = "out of memory: CUDA error: out of memory"
    assert found["absent"] == {"latency_2x4": said, "inference_peak_bytes": said}
    assert found["inference"]["load_peak_bytes"] >= 0


def test_where_the_uncompressed_model_has_no_room_the_compressed_one_is_timed_alone(tiny_bert, tmp_path, monkeypatch):
    def no_room(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(serve, "uncompressed_model", no_room)
    found = served("full >> half", tiny_bert, tmp_path)
    assert set(found["absent"]) == {"latency_1x8_speedup", "latency_2x4_speedup"}
    assert len(found["latency"]) == 4
    assert not any("uncompressed" in entry for entry in found["latency"])
