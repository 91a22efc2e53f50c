"""Sequence to sequence: against loops of plain transformers, and on tiny encoder-decoders through the whole engine."""

import json
import math

import pytest
import sacrebleu
import torch

from bench.machine import machine
from bench.models.sources.directory import Directory
from bench.plan import plan
from bench.suite.suite import of
from bench.tasks.base import IGNORED
from bench.tasks.kinds.seq2seq import targets_alone
from bench.tasks.registry import check_table, open_task
from bench.testing import jobs
from tests import architectures

ROWS = [
    {"text": f"the {colour} {thing} number {n} is old", "target": f"{thing} {n} is {colour}"}
    for n in range(20)
    for colour in ("red", "blue")
    for thing in ("pear", "port")
]


def table(folder, rows=ROWS, **keys):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return check_table({"kind": "seq2seq", "data": str(folder / "rows.jsonl"), "template": "say: {text}", **keys})


def task(folder, rows=ROWS, **keys):
    return open_task(table(folder, rows, **keys), folder)


@pytest.fixture(scope="module", params=["t5", "bart"])
def pair(request, tmp_path_factory):
    return architectures.make(request.param, tmp_path_factory.mktemp("models"))


@pytest.fixture
def loaded(pair):
    model, tokenizer = Directory(pair).load("AutoModelForSeq2SeqLM", {})
    return model.eval(), tokenizer


def loop(model, tokenizer, text, target):
    """The nats of each token of the target, one item at a time and without padding."""
    ids = tokenizer(f"say: {text}", return_tensors="pt")["input_ids"]
    labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
    begin = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=torch.cat([begin, labels[:, :-1]], 1)).logits
    shares = logits[0].double().log_softmax(-1)
    return [-float(shares[place, token]) for place, token in enumerate(labels[0])]


class TestAgainstALoopOfTransformers:
    def test_the_loss(self, loaded, tmp_path):
        model, tokenizer = loaded
        ours = task(tmp_path)
        batch = next(ours.batches("train", tokenizer, batch_size=8, max_length=64))
        texts, targets = ours.texts("train"), ours.data.answers("train")
        nats = [each for item in batch.items for each in loop(model, tokenizer, texts[item], targets[item])]
        with torch.no_grad():
            outputs = model(**batch.inputs)
            loss = ours.criterion(outputs, batch)
        assert len(nats) == batch.weight
        assert float(loss) == pytest.approx(sum(nats) / len(nats), rel=1e-4)
        assert float(loss) == pytest.approx(float(outputs.loss), rel=1e-5)
        assert batch.tokens == int(batch.inputs["attention_mask"].sum())
        assert (batch.labels == IGNORED).any()

    @pytest.mark.parametrize("metric", ["rouge_l", "bleu"])
    def test_the_scores(self, metric, loaded, tmp_path):
        model, tokenizer = loaded
        with torch.no_grad():
            torch.manual_seed(1)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        ours = task(tmp_path, metric=metric, max_new_tokens=8)
        quality = ours.evaluate(model, tokenizer, batch_size=8, max_length=64)
        texts, targets = list(ours.texts("test")), list(ours.data.answers("test"))
        nats = [
            each for text, target in zip(texts, targets, strict=True) for each in loop(model, tokenizer, text, target)
        ]
        assert quality.metrics["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-3)
        said = []
        for text in texts:
            ids = tokenizer(f"say: {text}", return_tensors="pt")["input_ids"]
            new = model.generate(ids, max_new_tokens=8, do_sample=False, num_beams=1, use_cache=True)
            said.append(tokenizer.decode(new[0], skip_special_tokens=True).strip())
        assert quality.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [targets]).score)
        assert quality.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [targets]).score)
        assert len(quality.correct) == len(texts)
        assert sum(quality.correct) / len(texts) == pytest.approx(quality.metrics[metric])
        assert set(quality.metrics) == set(ours.metrics)


class TestData:
    def test_a_text_may_have_several_targets(self, tmp_path):
        rows = [{"text": f"text {n}", "target": f"target {k}"} for n in range(50) for k in (1, 2)]
        ours = task(tmp_path, rows)
        assert len(ours.data) == 100
        assert not set(ours.texts("train")) & set(ours.texts("test"))

    def test_a_missing_target_is_named(self, tmp_path):
        (problem,) = task(tmp_path, [*ROWS, {"text": "alone", "target": " "}]).problems()
        assert "rows.jsonl: line 81: `target` is empty; fill it in or take the row out" in problem
        (problem,) = task(tmp_path, [{"text": "a", "tarjet": "b"}]).problems()
        assert "line 1 has no `target`; did you mean `tarjet`?" in problem

    @pytest.mark.parametrize("template", ["no place", "{text} and {text}"])
    def test_a_template_has_the_text_once(self, template, tmp_path):
        with pytest.raises(ValueError, match=r"the text is put in place of \{text\}, which stands in it once"):
            table(tmp_path, template=template)

    def test_a_long_target_is_cut_for_training(self, loaded, tmp_path):
        _, tokenizer = loaded
        ours = task(tmp_path, max_target_length=4)
        batch = next(ours.batches("train", tokenizer, batch_size=8, max_length=64))
        assert set(batch.terms) == {4}
        (claim,) = ours.evidence(None, tokenizer, batch, 64)
        assert claim.holds


class TestEvidence:
    def test_a_wrong_label_is_seen(self, loaded, tmp_path):
        _, tokenizer = loaded
        ours = task(tmp_path)
        batch = next(ours.batches("train", tokenizer, batch_size=4, max_length=64))
        targets = [ours.data.answers("train")[item] for item in batch.items]
        assert targets_alone(tokenizer, batch, targets, 128).holds
        for change in (lambda labels: labels[0, 2].add_(1), lambda labels: labels[2, 1].fill_(IGNORED)):
            kept = batch.labels.clone()
            change(batch.labels)
            assert not targets_alone(tokenizer, batch, targets, 128).holds
            batch.labels.copy_(kept)
        assert targets_alone(tokenizer, batch, [*targets[:-1], "another one"], 128).seen == "3 of 4 items"


class TestPlanning:
    def test_what_has_no_encoder_and_decoder_is_refused_with_the_mend(self, tmp_path):
        ours = task(tmp_path)
        assert ours.model_problem("t5", architectures.structure("t5", "AutoModelForSeq2SeqLM")) == ""
        found = ours.model_problem("llama", architectures.structure("llama", "AutoModelForCausalLM"))
        assert 'give kind = "instruction_tuning", with the text as `prompt`' in found
        found = ours.model_problem("bert", architectures.structure("bert", "AutoModelForMaskedLM"))
        assert found == "a bert model has no encoder and decoder; use an encoder-decoder, such as T5 or BART"

    def test_a_decoder_and_too_long_a_target_are_refused_in_a_plan(self, tmp_path):
        for name, keys, said in (
            ("llama", {}, 'kind = "instruction_tuning"'),
            ("bart", {"max_target_length": 400}, "max_target_length: the model has 128 positions"),
        ):
            model = architectures.make(name, tmp_path)
            given = table(tmp_path, **keys)
            suite = of({"model": str(model), "task": given.model_dump(exclude_defaults=True) | {"kind": "seq2seq"}, "budget": {"max_length": 64}, "recipes": {"full": "full"}})  # fmt: skip
            (cell,) = plan.make(suite, tmp_path, machine.look("cpu", 2)).cells
            assert said in cell.refused[0]


@pytest.mark.parametrize(
    "text",
    [
        "full",
        "lora(r=2)",
        "full >> bnb_int8",
        "full >> torch_int8_dynamic",
        pytest.param("full + rdrop(1.0)", marks=pytest.mark.slow),
        pytest.param("full >> magnitude(0.5)", marks=pytest.mark.slow),
        pytest.param("full >> half", marks=pytest.mark.slow),
        pytest.param("nf4 >> lora(r=2)", marks=pytest.mark.slow),
    ],
)
def test_the_engine_trains_compresses_and_serves_it(text, pair, tmp_path):
    if text.startswith("nf4") and pair.name == "t5":
        pytest.skip("planning refuses it")
    data = table(tmp_path, max_target_length=16)
    status, reason, records = jobs.run(text, pair, tmp_path, task=data, serve=True, budget={"steps": 3})
    assert status == "ok", reason
    *_, last, served = records
    assert {"rouge_l", "bleu", "perplexity"} <= set(last["quality"]["metrics"])
    assert [each["phase"] for each in served["latency"]] == ["prefill", "decode"] * 2
    if ">>" not in text:
        assert "the loss is over the tokens of the right targets" in [claim["text"] for claim in last["evidence"]]
        assert last["training"]["step_flops"] > 0


def test_methods_that_know_one_list_of_blocks_refuse_it(pair, tmp_path):
    given = table(tmp_path)
    recipes = {"a": "head", "b": "full >> distill(layers=1)", "c": "prompt(2)", "d": "prefix(2)", "e": 'full + adversarial("fgm")', "f": 'full + contrastive("simcse")'}  # fmt: skip
    suite = of({"model": str(pair), "task": given.model_dump(exclude_defaults=True) | {"kind": "seq2seq"}, "budget": {"max_length": 64}, "recipes": recipes})  # fmt: skip
    cells = plan.make(suite, tmp_path, machine.look("cpu", 2)).cells
    assert all(cell.refused for cell in cells), [cell.name for cell in cells if not cell.refused]
