"""Pretraining against BERT's description, transformers' own losses and a bare loop."""

import copy
import dataclasses
import itertools

import pytest
import torch

from bench.machine import machine
from bench.models.architecture import body
from bench.models.registry import open_model
from bench.plan import refusals
from bench.plan.context import PlanContext
from bench.recipe import recipe
from bench.stage.loop import Training
from bench.suite.suite import Budget
from bench.tasks.base import Task
from bench.tasks.kinds.classification import Classification
from bench.tasks.kinds.language_modelling import LanguageModelling
from bench.tasks.registry import open_task
from bench.testing import jobs
from methods.training.objectives import pretrain
from methods.training.objectives._shared import self_supervised
from methods.training.objectives.pretrain import Pretrain
from tests import architectures

BUDGET = Budget(steps=6, batch_size=8, max_length=32, warmup_steps=2)


@pytest.fixture
def make(tiny_bert, tiny_llama, tmp_path):
    def make(text, task="classification", seed=0, budget=BUDGET):
        table = jobs.table(tmp_path) if task == "classification" else jobs.prose(tmp_path)
        opened = open_task(table, tmp_path)
        directory = tiny_llama if "clm" in text or task == "causal_lm" else tiny_bert
        auto_class, options = opened.model_options()
        torch.manual_seed(seed)
        model, tokenizer = open_model(str(directory), tmp_path).load(auto_class, options)
        (stage,) = recipe.parse(text).stages
        return Training(
            model=model, tokenizer=tokenizer, task=opened, stage=stage, before=(), budget=budget,
            machine=machine.look("cpu", 1), seed=seed,
        )  # fmt: skip

    return make


def prepared(training):
    training.prepare()
    for module in training.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return training


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestMasked:
    def test_each_text_has_its_15_percent_of_gaps_and_at_least_one(self, make):
        training = prepared(make('pretrain("mlm")'))
        original = training.task.of.batches(
            "train", training.tokenizer, batch_size=8, max_length=32, generator=torch.Generator().manual_seed(0)
        )
        special = set(training.tokenizer.all_special_ids)
        for batch, true in itertools.islice(zip(training.batches(), original, strict=False), 12):
            assert batch.items == true.items
            assert batch.lengths == true.lengths
            for row, (labels, ids) in enumerate(
                zip(batch.labels.tolist(), true.inputs["input_ids"].tolist(), strict=True)
            ):
                ordinary = [token for token in ids[: true.lengths[row]] if token not in special]
                gaps = [place for place, label in enumerate(labels) if label != -100]
                assert len(gaps) == batch.terms[row] == max(1, round(0.15 * len(ordinary)))
                assert all(labels[place] == ids[place] not in special for place in gaps)
                read = batch.inputs["input_ids"][row].tolist()
                assert all(read[place] == ids[place] for place in range(len(ids)) if place not in gaps)

    def test_eight_of_ten_gaps_are_masked_and_one_is_another_token(self, make):
        training = prepared(make('pretrain("mlm")'))
        masked = same = gaps = 0
        for batch in itertools.islice(training.batches(), 300):
            where = batch.labels != -100
            read, true = batch.inputs["input_ids"][where], batch.labels[where]
            gaps += len(true)
            masked += int((read == training.tokenizer.mask_token_id).sum())
            same += int((read == true).sum())
        assert masked / gaps == pytest.approx(0.8, abs=0.03)
        assert same / gaps == pytest.approx(0.1, abs=0.02)

    def test_the_loss_is_transformers_own(self, make):
        training = prepared(make('pretrain("mlm")'))
        batch = next(training.batches())
        with torch.no_grad():
            ours, theirs = training.loss(batch), training.model(**batch.inputs, labels=batch.labels).loss
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
        assert type(training.model).__name__ == "BertForMaskedLM"
        assert training.task.logits(training.outputs(batch), batch).shape == (batch.weight, 141)

    def test_gaps_are_drawn_anew_each_epoch_and_the_same_for_a_seed(self, make):
        first, again, other = (prepared(make('pretrain("mlm")', seed=seed)) for seed in (0, 0, 1))
        draws = [list(itertools.islice(training.batches(), 25)) for training in (first, again, other)]
        for one, two in zip(draws[0], draws[1], strict=True):
            assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
        assert draws[0][0].items != draws[2][0].items
        gaps = {}
        for batch in draws[0]:
            for item, labels in zip(batch.items, batch.labels.tolist(), strict=True):
                gaps.setdefault(item, []).append(tuple(place for place, label in enumerate(labels) if label != -100))
        assert sum(len(set(of)) > 1 for of in gaps.values()) > len(gaps) / 2

    def test_the_accumulated_gradient_is_the_whole_batchs(self, make):
        found = []
        for text in ('pretrain("mlm")', 'pretrain("mlm") + accumulate(3)'):
            training = prepared(make(text))
            batch = next(training.batches())
            assert len(set(batch.terms)) > 1
            training.gradients(batch, 1.0)
            found.append({name: p.grad for name, p in training.model.named_parameters() if p.grad is not None})
        # The heads are drawn when they are put on, so the bodies' gradients compare where they are the same.
        whole, parts = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in found)
        assert torch.linalg.vector_norm(parts - whole) / torch.linalg.vector_norm(whole) < 1e-5

    def test_a_text_without_a_token_counts_nothing(self, make):
        training = prepared(make('pretrain("mlm")'))
        batch = next(training.batches())
        empty = dataclasses.replace(batch, labels=torch.full_like(batch.labels, -100), terms=(0,) * batch.samples)
        assert float(training.loss(empty).detach()) == 0


class TestNextSentence:
    def test_halves_are_joined_as_bert_joins_them(self, make):
        training = prepared(make('pretrain("nsp")'))
        tokenizer, budget = training.tokenizer, training.budget
        original = training.task.of.batches(
            "train", tokenizer, batch_size=8, max_length=32, generator=torch.Generator().manual_seed(0)
        )
        seen = {0: 0, 1: 0}
        for batch, true in itertools.islice(zip(training.batches(), original, strict=False), 12):
            halves = []
            for ids, length in zip(true.inputs["input_ids"].tolist(), true.lengths, strict=True):
                tokens = ids[1 : length - 1]
                halves.append((tokens[: len(tokens) // 2], tokens[len(tokens) // 2 :]))
            assert max(batch.lengths) <= budget.max_length
            for row, (label, length) in enumerate(zip(batch.labels.tolist(), batch.lengths, strict=True)):
                ids = batch.inputs["input_ids"][row].tolist()
                end = ids.index(tokenizer.sep_token_id)
                one, two = ids[1:end], ids[end + 1 : length - 1]
                assert ids[0] == tokenizer.cls_token_id
                assert ids[length - 1] == tokenizer.sep_token_id
                kinds = [0] * (end + 1) + [1] * (length - end - 1) + [0] * (len(ids) - length)
                assert batch.inputs["token_type_ids"][row].tolist() == kinds
                assert int(batch.inputs["attention_mask"][row].sum()) == length
                assert one == halves[row][0][: len(one)]
                others = [second for number, (_, second) in enumerate(halves) if number != row]
                assert two in [of[: len(two)] for of in (others if label else [halves[row][1]])]
                seen[label] += 1
        assert min(seen.values()) > 30

    def test_the_loss_is_transformers_own(self, make):
        training = prepared(make('pretrain("nsp")'))
        batch = next(training.batches())
        with torch.no_grad():
            ours, theirs = training.loss(batch), training.model(**batch.inputs, labels=batch.labels).loss
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


class TestCausal:
    def test_on_language_modelling_it_is_full_training(self, make):
        ours, full = make('pretrain("clm", lr=1e-3)', "causal_lm"), make("full(lr=1e-3)", "causal_lm")
        for training in (ours, full):
            training.prepare()
            training.run()
        assert [float(loss) for loss in ours.losses] == [float(loss) for loss in full.losses]
        assert all(map(torch.equal, ours.model.parameters(), full.model.parameters()))

    def test_on_classification_the_loss_is_transformers_own(self, make):
        training = prepared(make('pretrain("clm")'))
        batch = next(training.batches())
        with torch.no_grad():
            ours, theirs = training.loss(batch), training.model(**batch.inputs, labels=batch.labels).loss
        assert type(training.model).__name__ == "LlamaForCausalLM"
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
        assert batch.terms == tuple(length - 1 for length in batch.lengths)

    def test_it_learns(self, make):
        budget = Budget(steps=60, batch_size=16, max_length=32)
        training = make('pretrain("clm", lr=1e-2, weights="random")', "causal_lm", budget=budget)
        training.prepare()
        training.run()
        training.finish()
        options = {"batch_size": 32, "max_length": 32}
        assert training.task.evaluate(training.model, training.tokenizer, **options).metrics["bits_per_byte"] < 4


class TestHead:
    @pytest.mark.parametrize("objective", ["mlm", "nsp", "clm"])
    def test_the_body_is_the_models_own_and_the_head_comes_off(self, make, objective):
        training = make(f'pretrain("{objective}", lr=1e-2)')
        given, task, probe = training.model, training.task, training.probe
        before = weights(given)
        training.prepare()
        assert training.model is not given
        assert body(training.model) is body(given)
        training.run()
        training.finish()
        assert training.model is given
        assert training.task is task
        assert training.probe.items == probe.items
        assert torch.equal(training.probe.labels, probe.labels)
        after = weights(given)
        still = {name for name in before if torch.equal(before[name], after[name])}
        head = {name for name in before if name.startswith(("classifier", "score"))}
        reached = {name for name in before if "pooler" in name} if objective == "mlm" else set()
        assert still == head | reached | {name for name in still if name.endswith(("key.bias", "inv_freq"))}

    def test_the_output_layer_is_the_embedding_where_the_architecture_ties_them(self, make):
        model = prepared(make('pretrain("mlm")')).model
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert not any(parameter.is_meta for parameter in model.parameters())
        assert not any(buffer.is_meta for buffer in model.buffers())

    def test_what_comes_then_starts_from_the_pretrained_body(self, tiny_bert, tmp_path):
        jobs.run('pretrain("mlm") >> full', tiny_bert, tmp_path, measure={"latency": []})
        first = torch.load(tmp_path / "checkpoints/node0.pt", weights_only=False)["model"]
        assert type(first).__name__ == "BertForSequenceClassification"
        assert first.classifier.out_features == 3


class TestWeights:
    @pytest.mark.parametrize(
        ("text", "task"), [('pretrain("mlm"{})', "classification"), ('pretrain("clm"{})', "causal_lm")]
    )
    def test_random_ones_are_drawn_as_the_architecture_does(self, make, text, task):
        training = make(text.format(', weights="random"'), task)
        before = weights(body(training.model))
        training.prepare()
        after = weights(body(training.model))
        for name, tensor in after.items():
            if tensor.dim() == 2:
                assert not torch.equal(tensor, before[name])
                assert float(tensor.std()) == pytest.approx(0.02, rel=0.15)
            elif "norm" in name.lower() and name.endswith("weight"):
                assert (tensor == 1).all()
            elif name.endswith("bias"):
                assert (tensor == 0).all()

    def test_given_ones_are_kept(self, make):
        training = make('pretrain("mlm")')
        before = weights(body(training.model))
        training.prepare()
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(body(training.model)).items())

    def test_they_differ_by_seed_alone(self, make):
        found = []
        for seed in (0, 0, 1):
            training = make('pretrain("mlm", weights="random")', seed=seed)
            training.prepare()
            found.append(weights(body(training.model)))
        same, other = (
            [torch.equal(found[0][name], run[name]) for name in run if run[name].dim() == 2] for run in found[1:]
        )
        assert all(same)
        assert not any(other)


class TestEvidence:
    def test_too_many_gaps_are_seen(self, tiny_bert, tmp_path, monkeypatch):
        monkeypatch.setattr(self_supervised, "_gaps", lambda tokens: min(tokens, max(1, round(0.4 * tokens))))
        status, reason, _ = jobs.run('pretrain("mlm")', tiny_bert, tmp_path)
        assert status == "invalid"
        assert "15 %" in reason

    def test_weights_that_were_not_drawn_are_seen(self, tiny_bert, tmp_path, monkeypatch):
        monkeypatch.setattr(pretrain, "_draw_anew", lambda model: None)
        status, reason, _ = jobs.run('pretrain("mlm", weights="random")', tiny_bert, tmp_path)
        assert status == "invalid"
        assert "not those given" in reason

    def test_wrong_labels_are_seen(self, tiny_bert, tmp_path, monkeypatch):
        real = self_supervised.NextSentence.change

        def flipped(*args):
            batch = real(*args)
            return dataclasses.replace(batch, labels=1 - batch.labels)

        monkeypatch.setattr(self_supervised.NextSentence, "change", flipped)
        status, reason, _ = jobs.run('pretrain("nsp")', tiny_bert, tmp_path)
        assert status == "invalid"
        assert "as their labels say" in reason

    def test_another_loss_is_seen(self, tiny_bert, tmp_path, monkeypatch):
        real = self_supervised.Objective.criterion
        monkeypatch.setattr(self_supervised.Objective, "criterion", lambda *args: real(*args) * 1.01)
        status, reason, _ = jobs.run('pretrain("mlm")', tiny_bert, tmp_path)
        assert status == "invalid"
        assert "the loss is the objective's" in reason

    def test_a_model_of_a_decoder_is_proven_too(self, tiny_llama, tmp_path):
        for text in ('pretrain("clm") >> full', 'pretrain("clm", weights="random")'):
            status, reason, _ = jobs.run(text, tiny_llama, tmp_path)
            assert status == "ok", reason

    def test_on_language_modelling(self, tiny_llama, tmp_path):
        for text in ('pretrain("clm")', 'pretrain("clm", weights="random") >> full'):
            status, reason, records = jobs.run(text, tiny_llama, tmp_path, task=jobs.prose(tmp_path))
            assert status == "ok", reason
            assert set(records[-1]["quality"]["metrics"]) == {"bits_per_byte", "perplexity", "token_accuracy"}

    def test_an_invalid_stage_is_not_scored(self, tiny_bert, tmp_path, monkeypatch):
        monkeypatch.setattr(Pretrain, "on_end", lambda self, training: None)
        status, reason, (record,) = jobs.run('pretrain("mlm")', tiny_bert, tmp_path)
        assert status == "invalid"
        assert "the model is a BertForMaskedLM" in reason
        assert "quality" not in record
        assert not (tmp_path / "checkpoints/node0.pt").exists()


class Retrieval(Task):
    kind = "retrieval"


def plan_context(text, *, task=Classification, model="bert", batch_size=8):
    stages = recipe.parse(text).stages
    return PlanContext(
        before=stages[:-1], stage=stages[-1], machine=machine.look("cpu", 1), task=task, model=model,
        batch_size=batch_size, steps=6, structure=architectures.structure(model),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ('pretrain("clm")', {}, "a bert model reads in both directions"),
        ('pretrain("mlm")', {"model": "llama"}, "a llama model reads from the left alone"),
        ('pretrain("nsp")', {"model": "roberta"}, "no next sentence head for a roberta model"),
        ('pretrain("nsp")', {"model": "llama"}, "no next sentence head for a llama model"),
        ('pretrain("nsp")', {"batch_size": 1}, "raise budget.batch_size to 2"),
        ('pretrain("mlm")', {"task": Retrieval}, "this one is retrieval"),
        ('lora >> pretrain("mlm")', {}, "fold it first"),
        ('torch_int8_dynamic >> pretrain("mlm")', {}, "no gradient flows"),
        ('magnitude(0.5) >> pretrain("mlm", weights="random")', {}, "fill what was pruned"),
    ],
)
def test_what_cannot_be_is_refused(text, options, reason):
    where = plan_context(text, **options)
    (problem,) = refusals.problems(where.stage.main, where)
    assert reason in problem


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('pretrain("mlm")', {}),
        ('pretrain("nsp")', {}),
        ('pretrain("clm")', {"model": "llama"}),
        ('pretrain("clm")', {"model": "llama", "task": LanguageModelling}),
        ('lora >> merge >> pretrain("mlm")', {}),
        ('magnitude(0.5) >> pretrain("mlm")', {}),
    ],
)
def test_what_can_be_is_not(text, options):
    where = plan_context(text, **options)
    assert not list(refusals.problems(where.stage.main, where))


def test_evaluation_of_an_objective_is_its_mean_loss(make):
    training = prepared(make('pretrain("mlm")'))
    training.model.eval()
    quality = training.task.evaluate(training.model, training.tokenizer, batch_size=3, max_length=32, split="test")
    nats, weight = 0.0, 0
    with torch.no_grad():
        for batch in training.task.batches("test", training.tokenizer, batch_size=3, max_length=32):
            logits = copy.copy(training.model(**batch.inputs).logits).log_softmax(-1)
            for row, place_ in (batch.labels != -100).nonzero().tolist():
                nats -= float(logits[row, place_, batch.labels[row, place_]])
                weight += 1
    assert quality.metrics["loss"] == pytest.approx(nats / weight, rel=1e-5)
