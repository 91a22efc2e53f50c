"""A decoder's phases, against transformers' own generation and a clock that only passes move."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from bench.measure import latency
from bench.measure.latency import NEW_TOKENS, decoder, shape_inputs
from bench.metrics import registry
from bench.models.conventions import CACHES
from bench.models.sources.directory import Directory
from bench.record import pyperf_file
from tests import architectures

CPU = torch.device("cpu")
SHAPE = (2, 7)
OPTIONS = {"device": CPU, "samples": 3, "process": 1, "threads": 1}


@pytest.fixture
def loaded(tiny_llama):
    return Directory(tiny_llama).load("AutoModelForCausalLM", {})


@pytest.fixture
def quick(monkeypatch):
    """One pass a sample, so that few passes tell all."""
    real = latency.measure
    monkeypatch.setattr(latency, "measure", lambda *a, **k: real(*a, **{**k, "min_seconds": 1e-9}))


def watch(model, calls):
    """Note the new ids, and how long the cache is, of each pass through `model`."""

    def note(module, args, given):
        cache = next((given[name] for name in CACHES if name in given), None)
        ids = given.get("input_ids")
        calls.append((cache.get_seq_length() if cache is not None else 0, None if ids is None else ids.clone()))

    return model.register_forward_pre_hook(note, with_kwargs=True)


def answers(calls):
    """The tokens of each answer: those that the passes after a prefill read."""
    found = []
    for length, ids in calls:
        if ids is not None and ids.shape[1] == 1:
            found[-1][1].append((length, ids))
        else:
            found.append((length, []))
    return [answer for _, answer in found if answer]


def test_each_answer_is_transformers_greedy_one_from_a_cache_of_its_own(loaded, quick):
    model, tokenizer = loaded
    calls = []
    handle = watch(model, calls)
    decoder(model, tokenizer, SHAPE, **OPTIONS)
    handle.remove()
    inputs = shape_inputs(tokenizer, SHAPE, CPU)
    model.generation_config.eos_token_id = None
    made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True)[:, SHAPE[1] :]
    found = answers(calls)
    assert len(found) > 2 * 3, "one to try, warm-ups and samples of two clocks"
    for answer in found:
        assert [length for length, _ in answer] == list(range(SHAPE[1], SHAPE[1] + NEW_TOKENS))
        assert torch.equal(torch.cat([ids for _, ids in answer], 1), made)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_pair_reads_the_prompt_once_and_its_decoder_writes(name, quick, tmp_path):
    model, tokenizer = Directory(architectures.make(name, tmp_path)).load("AutoModelForSeq2SeqLM", {})
    torch.manual_seed(0)
    with torch.no_grad():  # weights as they are drawn write one token again and again
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    calls, read = [], []
    model.register_forward_pre_hook(lambda module, args, given: calls.append(given), with_kwargs=True)
    model.get_encoder().register_forward_pre_hook(lambda module, args: read.append(1))
    entries = decoder(model, tokenizer, SHAPE, **OPTIONS)
    assert [entry["phase"] for entry in entries] == ["prefill", "decode"] * 2
    steps = [given["decoder_input_ids"] for given in calls if "encoder_outputs" in given]
    assert len(steps) % NEW_TOKENS == 0
    assert len(read) == len(calls) - len(steps), "once for each prefill"
    model.generation_config.update(eos_token_id=None, forced_eos_token_id=None)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True}
    made = model.generate(**shape_inputs(tokenizer, SHAPE, CPU), **options)[:, 1:]
    assert torch.equal(torch.cat(steps[:NEW_TOKENS], 1), made)
    assert len(made.unique()) > 2


@pytest.mark.filterwarnings(
    "ignore:`(is_gradient_checkpointing|past_key_values)` is deprecated:FutureWarning"
)  # PEFT's
@pytest.mark.parametrize("method", ["PrefixTuningConfig", "PromptTuningConfig"])
def test_virtual_tokens_are_in_the_cache_once(loaded, quick, method):
    import peft

    model, tokenizer = loaded
    wrapped = peft.get_peft_model(model, getattr(peft, method)(task_type="CAUSAL_LM", num_virtual_tokens=4))
    calls = []
    handle = watch(model, calls)
    decoder(wrapped, tokenizer, SHAPE, **OPTIONS)
    handle.remove()
    for answer in answers(calls):
        assert [length for length, _ in answer] == list(range(4 + SHAPE[1], 4 + SHAPE[1] + NEW_TOKENS))


class Counting(torch.nn.Module):
    """A decoder whose passes take an exact time on a clock of its own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.time = 100.0

    def now(self):
        return self.time

    def answer(self, input_ids, use_cache, **given):
        assert use_cache
        assert not self.training
        ((name, cache),) = given.items()
        assert cache in (None, f"a cache of {self.time}"), "each pass goes on from the one before"
        self.time += 8.0 if cache is None else 0.5
        return SimpleNamespace(**{name: f"a cache of {self.time}"}, logits=torch.zeros(*input_ids.shape, 5))


class Newest(Counting):
    """As of transformers 5.24."""

    def forward(self, input_ids, attention_mask=None, cache=None, use_cache=None):
        return self.answer(input_ids, use_cache, cache=cache)


class Older(Counting):
    """As of transformers up to 5.23."""

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        return self.answer(input_ids, use_cache, past_key_values=past_key_values)


class States(Counting):
    """As of state space models in transformers up to 5.23."""

    def forward(self, input_ids, attention_mask=None, cache_params=None, use_cache=None):
        return self.answer(input_ids, use_cache, cache_params=cache_params)


def test_a_model_without_a_cache_is_no_decoder(tiny_bert):
    model = BertForSequenceClassification(BertConfig.from_pretrained(tiny_bert))
    with pytest.raises(ValueError, match="takes no cache of keys and values"):
        decoder(model, 5, SHAPE, **OPTIONS)


@pytest.mark.parametrize("kind", [Newest, Older, States])
def test_each_phase_has_its_passes_alone_in_its_clock(monkeypatch, kind):
    model = kind()
    monkeypatch.setattr(latency, "_clocks", lambda device, threads: [("wall", threads, model.now)])
    prefill, decode = decoder(model, 5, SHAPE, **OPTIONS)
    assert (prefill["phase"], decode["phase"]) == ("prefill", "decode")
    assert prefill["values"] == [8.0] * 3
    assert decode["values"] == [0.5] * 3, "a pass, not all of them, and no prefill"
    assert set(decode["warmups"]) == {0.5}
    assert (prefill["loops"], decode["loops"]) == (1, NEW_TOKENS)
    record = {"latency": [prefill, decode]}
    assert registry.metric("prefill_2x7").read([record]) == 8.0
    assert registry.metric("time_per_token_2x7").read([record]) == 0.5
    assert registry.metric("decode_tokens_per_second_2x7").read([record]) == 4.0
    assert registry.metric("latency_2x7").read([record]) is None
    assert registry.metric("cpu_prefill_2x7").read([record]) is None
    assert registry.metric("time_per_token_2x7").better == "lower"
    assert registry.metric("decode_tokens_per_second_2x7").better == "higher"


def test_entries_are_ready_for_records_reports_and_pyperf(loaded, quick, tmp_path):
    import pyperf

    model, tokenizer = loaded
    before = torch.get_num_threads()
    taken = decoder(model, tokenizer, (1, 4), **{**OPTIONS, "threads": 2})
    assert torch.get_num_threads() == before
    assert json.loads(json.dumps(taken)) == taken
    assert [(entry["clock"], entry["threads"], entry["phase"]) for entry in taken] == [
        ("wall", 2, "prefill"), ("wall", 2, "decode"), ("cpu", 1, "prefill"), ("cpu", 1, "decode"),
    ]  # fmt: skip
    assert all(value > 0 for entry in taken for value in entry["values"])
    assert {entry["process"] for entry in taken} == {1}
    names = [metric.name for metric in registry.measured([{"latency": taken}]) if metric.family == "latency"]
    shape = "_1x4"
    assert names == [
        f"time_per_token{shape}", f"cpu_time_per_token{shape}", f"prefill{shape}", f"cpu_prefill{shape}",
        f"decode_tokens_per_second{shape}", f"cpu_decode_tokens_per_second{shape}",
    ]  # fmt: skip
    assert [registry.metric(name).name for name in names] == names
    pyperf_file.write(taken, tmp_path / "latency.json")
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "latency.json"))
    assert set(suite.get_benchmark_names()) == {
        f"{phase} 1x4, {clock}"
        for phase in ("prefill", "decode")
        for clock in ("wall time, 2 threads", "cpu time, 1 threads")
    }


def test_records_without_a_phase_are_forward_passes():
    entry = {"batch": 1, "length": 4, "clock": "wall", "values": [2.0]}
    assert [metric.name for metric in registry.measured([{"latency": [entry]}]) if metric.family == "latency"] == [
        "latency_1x4"
    ]
    assert registry.metric("latency_1x4").read([{"latency": [entry]}]) == 2.0
    assert registry.metric("time_per_token_1x4").read([{"latency": [entry]}]) is None


def test_a_prompt_and_an_answer_beyond_the_positions_are_refused(loaded):
    model, tokenizer = loaded
    model.config.max_position_embeddings = 127
    with pytest.raises(ValueError, match="112 tokens and 16 new ones: the model's positions end at 127"):
        decoder(model, tokenizer, (1, 112), **OPTIONS)
