"""Language modelling against hand computations, and its data."""

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch

from bench.models import architecture
from bench.models.sources.directory import Directory
from bench.suite.suite import SuiteError, of
from bench.tasks import next_token
from bench.tasks.base import TaskError
from bench.tasks.kinds import language_modelling
from bench.tasks.kinds.language_modelling import LanguageModelling, OwnText
from bench.tasks.passages import divide, passages
from bench.tasks.registry import open_task
from bench.tasks.table import TextTable
from tests import architectures


def some(count=60):
    """Short texts, no two alike, of different lengths."""
    return [
        " ".join(f"w{number * step % 97}" for step in range(1, 2 + number % 12)) + f" {number}"
        for number in range(count)
    ]


class Texts(LanguageModelling):
    name = "texts"

    def __init__(self, texts):
        super().__init__()
        self.given = texts

    def read(self):
        return self.given


@pytest.fixture
def loaded(tiny_llama):
    torch.manual_seed(0)
    model, tokenizer = Directory(tiny_llama).load("AutoModelForCausalLM", {})
    return model.eval(), tokenizer


class TestData:
    def test_nothing_for_testing_is_a_problem(self):
        assert "texts: 1 different texts are too few: none falls into" in Texts(["one"]).problems()[0]
        assert len(Texts([]).problems()) == 2
        assert Texts(some()).problems() == []

    def test_an_encoder_is_unfit(self):
        assert "reads in both directions" in Texts([]).model_problem("bert", architectures.structure("bert"))
        assert Texts([]).model_problem("llama", architectures.structure("llama")) == ""


class TestBatches:
    def test_blocks_are_the_texts_tokens_each_begun_with_a_beginning(self, loaded):
        _, tokenizer = loaded
        task = Texts(some())
        by_text = [[] for _ in task.texts("train")]
        blocks = task.encoded("train", tokenizer, 12)
        for batch in task.batches("train", tokenizer, batch_size=7, max_length=12):
            ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
            assert (ids[:, 0] == tokenizer.bos_token_id).all()
            assert torch.equal(mask.sum(1), torch.tensor(batch.lengths))
            assert max(batch.lengths) <= 12
            assert batch.terms == tuple(length - 1 for length in batch.lengths)
            assert (ids[~mask] == tokenizer.pad_token_id).all()
            assert torch.equal(batch.labels, ids.masked_fill(~mask, -100))
            for item, row, length in zip(batch.items, ids.tolist(), batch.lengths, strict=True):
                by_text[blocks.text_of[item]] += row[1:length]
        assert [tokenizer.decode(ids) for ids in by_text] == list(task.texts("train"))
        assert blocks.tokens == sum(map(len, by_text))

    def test_shuffled_epochs_hold_each_block_once(self, loaded):
        _, tokenizer = loaded
        task = Texts(some())
        count = len(task.encoded("train", tokenizer, 16))
        stream = task.batches(
            "train", tokenizer, batch_size=count, max_length=16, generator=torch.Generator().manual_seed(1)
        )
        first, second = next(stream).items, next(stream).items
        assert sorted(first) == sorted(second) == list(range(count))
        assert first != second

    def test_ids_come_from_the_cache_the_second_time_and_a_damaged_one_is_made_again(
        self, loaded, own_cache, monkeypatch
    ):
        _, tokenizer = loaded
        asked = []
        real = type(tokenizer).__call__
        monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *a, **k: asked.append(a) or real(self, *a, **k))
        texts = [f"only here {number}" for number in range(30)]
        before = set((own_cache / "tokens").glob("*"))
        first = Texts(texts).encoded("train", tokenizer, 16)
        assert asked
        asked.clear()
        again = Texts(texts).encoded("train", tokenizer, 16)
        assert not asked
        assert torch.equal(first._ids, again._ids)
        assert first.lengths == again.lengths
        (file,) = set((own_cache / "tokens").glob("*")) - before
        whole = file.read_bytes()
        for damaged in (b"", whole[:40], whole[:-1] + bytes([whole[-1] ^ 1])):
            file.write_bytes(damaged)
            assert torch.equal(Texts(texts).encoded("train", tokenizer, 16)._ids, first._ids)
            assert file.read_bytes() == whole

    def test_no_texts_is_an_error(self, loaded):
        with pytest.raises(TaskError, match="there are no test texts"):
            Texts([]).encoded("test", loaded[1], 16)


class TestCriterion:
    def test_it_is_the_mean_over_predicted_tokens_by_hand(self, loaded):
        model, tokenizer = loaded
        task = Texts(some())
        batch = next(task.batches("train", tokenizer, batch_size=8, max_length=24))
        assert len(set(batch.lengths)) > 2
        with torch.no_grad():
            outputs = model(**batch.inputs)
            losses = []
            for row, length in enumerate(batch.lengths):
                chances = outputs.logits[row].double().softmax(-1)
                ids = batch.inputs["input_ids"][row]
                losses += [-math.log(chances[place - 1, ids[place]]) for place in range(1, length)]
            loss = task.criterion(outputs, batch)
        assert loss.dtype == torch.float32
        assert len(losses) == batch.weight
        assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert task.logits(outputs, batch).shape == (batch.weight, 259)

    def test_it_is_transformers_own_loss(self, loaded):
        model, tokenizer = loaded
        task = Texts(some())
        batch = next(task.batches("train", tokenizer, batch_size=8, max_length=24))
        with torch.no_grad():
            theirs = model(**batch.inputs, labels=batch.labels).loss
            ours = task.criterion(model(**batch.inputs), batch)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)

    def test_virtual_tokens_in_front_are_left_out(self, loaded):
        model, tokenizer = loaded
        task = Texts(some())
        batch = next(task.batches("train", tokenizer, batch_size=4, max_length=24))
        with torch.no_grad():
            logits = model(**batch.inputs).logits
        longer = SimpleNamespace(logits=torch.cat([torch.randn(4, 5, logits.shape[-1]), logits], 1))
        plain = SimpleNamespace(logits=logits)
        assert torch.equal(task.criterion(longer, batch), task.criterion(plain, batch))
        assert torch.equal(task.logits(longer, batch), task.logits(plain, batch))

    def test_in_half_precision_it_is_computed_in_single(self, loaded):
        _, tokenizer = loaded
        task = Texts(some())
        batch = next(task.batches("train", tokenizer, batch_size=4, max_length=24))
        logits = torch.randn(*batch.labels.shape, 259, generator=torch.Generator().manual_seed(0)).bfloat16()
        half, single = SimpleNamespace(logits=logits), SimpleNamespace(logits=logits.float())
        assert torch.equal(task.criterion(half, batch), task.criterion(single, batch))


class TestEvaluate:
    def test_metrics_by_hand(self, loaded):
        model, tokenizer = loaded
        task = Texts(some(120))
        quality = task.evaluate(model, tokenizer, batch_size=5, max_length=12)
        by_text, hits, tokens = {}, 0, 0
        blocks = task.encoded("test", tokenizer, 12)
        with torch.no_grad():
            for item in range(len(blocks)):
                batch = blocks.batch([item])
                logits = model(batch.inputs["input_ids"]).logits[0, :-1]
                labels = batch.inputs["input_ids"][0, 1:]
                nats = -logits.double().log_softmax(-1)[torch.arange(len(labels)), labels].sum()
                text = blocks.text_of[item]
                by_text[text] = by_text.get(text, 0.0) + float(nats)
                hits += int((logits.argmax(-1) == labels).sum())
                tokens += len(labels)
        size = sum(len(text.encode()) for text in task.texts("test"))
        total = sum(by_text.values())
        assert quality.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-6)
        assert quality.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
        assert quality.metrics["token_accuracy"] == hits / tokens
        assert quality.extra == {"nats": pytest.approx(total, rel=1e-6), "tokens": tokens, "bytes": size}
        shares = [by_text[text] / math.log(2) / (size / len(by_text)) for text in range(len(by_text))]
        assert quality.correct == pytest.approx(shares, rel=1e-5)
        assert sum(quality.correct) / len(quality.correct) == pytest.approx(quality.metrics["bits_per_byte"], abs=1e-9)

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
    @pytest.mark.parametrize("wrapped", ["plain", "prompt", "lora", "beside another"])
    def test_some_positions_at_a_time_score_as_all_and_the_body_runs_once(self, loaded, monkeypatch, wrapped):
        from peft import LoraConfig, PromptTuningConfig, get_peft_model

        model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
        options = {"uncompressed": copy.deepcopy(model)} if wrapped == "beside another" else {}
        if wrapped == "prompt":
            model = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
        if wrapped == "lora":
            model = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))
        torch.nn.init.normal_(model.get_output_embeddings().weight)
        model.eval()
        task = Texts(some(120))
        ran, shapes = [], []
        inner = architecture.unwrapped(model)
        inner.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
        inner.get_output_embeddings().register_forward_hook(lambda *call: shapes.append(call[-1].shape))
        whole = task.evaluate(model, tokenizer, batch_size=5, max_length=12, **options)
        passes, most = len(ran), max(shape.numel() for shape in shapes)
        ran.clear(), shapes.clear()
        monkeypatch.setattr(next_token, "LOGITS", 5 * 259 * 3)
        parts = task.evaluate(model, tokenizer, batch_size=5, max_length=12, **options)
        assert len(ran) == passes
        # Three of twelve positions, and where all of a batch are so few, a prompt's in front of them.
        assert max(shape.numel() for shape in shapes) <= 5 * 259 * (7 if wrapped == "prompt" else 4) < most / 2
        assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-9)
        assert parts.correct == pytest.approx(whole.correct, rel=1e-5)
        assert "forward" not in vars(inner.model)
        if options:
            assert whole.metrics["kl_divergence"] > 0

    def test_a_head_that_cannot_be_run_for_some_positions_is_run_once_and_looked_at_in_parts(self, loaded, monkeypatch):
        model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
        task = Texts(some(120))
        whole = task.evaluate(model, tokenizer, batch_size=5, max_length=12)
        model.compile(backend="eager")
        monkeypatch.setattr(next_token, "LOGITS", 5 * 259 * 3)
        seen = []
        real = torch.nn.functional.cross_entropy
        monkeypatch.setattr(
            torch.nn.functional,
            "cross_entropy",
            lambda given, *a, **k: seen.append(given.numel()) or real(given, *a, **k),
        )
        parts = task.evaluate(model, tokenizer, batch_size=5, max_length=12)
        assert max(seen) <= 5 * 259 * 3
        assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5)

    def test_a_uniform_model_over_bytes_takes_its_logarithm(self, loaded):
        _, tokenizer = loaded
        task = Texts(some())

        class Uniform(torch.nn.Linear):
            def forward(self, input_ids, attention_mask):
                logits = torch.full((*input_ids.shape, 259), -1e9)
                logits[..., 3:] = 0  # the 256 bytes
                return SimpleNamespace(logits=logits)

        metrics = task.evaluate(Uniform(1, 1), tokenizer, batch_size=8, max_length=16).metrics
        assert metrics["bits_per_byte"] == pytest.approx(8)
        assert metrics["perplexity"] == pytest.approx(256)

    def test_bytes_are_those_of_utf8(self, loaded):
        _, tokenizer = loaded
        task = Texts([f"größe — {number} 🙂" for number in range(60)])
        size = sum(len(text.encode()) for text in task.texts("test"))
        assert size > sum(map(len, task.texts("test")))
        assert task.evaluate(loaded[0], tokenizer, batch_size=8, max_length=64).extra["bytes"] == size

    def test_the_score_does_not_depend_on_the_batch(self, loaded):
        model, tokenizer = loaded
        task = Texts(some())
        one, other = (task.evaluate(model, tokenizer, batch_size=size, max_length=16) for size in (1, 16))
        assert one.metrics == pytest.approx(other.metrics, rel=1e-6)
        assert one.correct == pytest.approx(other.correct, rel=1e-5)

    def test_a_model_that_fell_apart_has_no_finite_loss_and_predicts_nothing(self, loaded):
        class Broken(torch.nn.Linear):
            def forward(self, input_ids, attention_mask):
                return SimpleNamespace(logits=torch.full((*input_ids.shape, 259), torch.nan))

        quality = Texts(some()).evaluate(Broken(1, 1), loaded[1], batch_size=8, max_length=16)
        assert not math.isfinite(quality.metrics["bits_per_byte"])
        assert quality.metrics["token_accuracy"] == 0
        assert quality.correct == ()

    def test_a_perplexity_beyond_all_numbers_is_infinite(self):
        assert language_modelling._quality([1e6], 0, 1, [1]).metrics["perplexity"] == math.inf

    def test_only_test_texts_are_read(self, loaded, monkeypatch):
        model, tokenizer = loaded
        task = Texts(some())
        asked = []
        real = LanguageModelling.texts
        monkeypatch.setattr(LanguageModelling, "texts", lambda self, split: asked.append(split) or real(self, split))
        task.evaluate(model, tokenizer, batch_size=8, max_length=16)
        assert set(asked) == {"test"}


def table(file, **options):
    return OwnText(TextTable(kind="causal_lm", data=file.name, **options), file.parent)


class TestOwnText:
    def test_a_text_file_is_cut_into_passages(self, tmp_path):
        content = "".join(f"line {number}\n" for number in range(4000))
        (tmp_path / "book.txt").write_text(content)
        task = open_task(TextTable(kind="causal_lm", data="book.txt"), tmp_path)
        assert isinstance(task, OwnText)
        assert task.name == "book"
        assert task.problems() == []
        assert "".join(task.read()) == content
        assert task.fingerprint() == divide(passages(content)).fingerprint

    def test_rows_are_texts_as_they_are(self, tmp_path):
        file = tmp_path / "rows.jsonl"
        file.write_text(
            "".join(json.dumps({"body": f"  def f{number}():\n", "label": 3}) + "\n" for number in range(5))
        )
        assert list(table(file, text="body").read()) == [f"  def f{number}():\n" for number in range(5)]
        file = tmp_path / "rows.csv"
        file.write_text("id,text\n1, one\n2,two\n")
        assert list(table(file).read()) == [" one", "two"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", b" \n", "it is empty"),
            ("a.txt", b"caf\xe9", "line 1 is not UTF-8 (byte 0xe9); save it as UTF-8"),
            ("a.jsonl", b'{"txt": "one"}', "line 1 has no `text`; did you mean `txt`?"),
            ("a.jsonl", b'{"text": 3}', "line 1: `text` is text, found 3"),
            ("a.csv", b'text\n""\n', "line 2: `text` is empty; fill it in or take the row out"),
            ("a.csv", "text\n\u200b\n".encode(), "line 2: `text` is empty"),
            ("a.csv", b"text,text\none,two\n", "line 1: `text` is there 2 times, in places 1 and 2; rename or remove"),
            ("a.jsonl", b'{"text": "one", "text": "two"}', "line 1: `text` is there 2 times"),
            ("a.parquet", b"PAR1", "it is not a Parquet file, or is damaged or cut short"),
        ],
    )
    def test_faults(self, name, content, message, tmp_path):
        (tmp_path / name).write_bytes(content)
        (problem,) = table(tmp_path / name).problems()
        assert problem.startswith(f"{tmp_path / name}: ")
        assert message in problem

    def test_a_missing_file_names_the_nearest(self, tmp_path):
        (tmp_path / "book.txt").touch()
        assert table(tmp_path / "bok.txt").problems() == [
            f"{tmp_path / 'bok.txt'}: no such file; did you mean `book.txt`?"
        ]

    def test_too_small_a_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("one line\n")
        assert "1 different texts are too few" in table(tmp_path / "a.txt").problems()[0]

    def test_a_label_is_refused_and_a_bare_file_is_told_its_table(self, tmp_path):
        suite = {"model": "m", "recipes": {"full": "full"}}
        with pytest.raises(SuiteError, match="label: causal_lm learns from texts alone; leave it out"):
            of({**suite, "task": {"kind": "causal_lm", "data": "a.txt", "label": "x"}})
        assert of({**suite, "task": {"kind": "causal_lm", "data": "a.txt"}}).tasks[0].kind == "causal_lm"
        with pytest.raises(TaskError, match=r'kind = "causal_lm", data = "a\.txt"'):
            open_task("a.txt", tmp_path)


def test_chance_is_each_token_of_the_vocabulary_equally_likely(loaded):
    _, tokenizer = loaded
    task = Texts(some())
    texts = task.texts("test")
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    metrics = task.chance(tokenizer, 16).metrics
    size = len(tokenizer)
    assert metrics["perplexity"] == size
    assert metrics["token_accuracy"] == pytest.approx(1 / size)
    assert metrics["bits_per_byte"] == pytest.approx(
        tokens * math.log2(size) / sum(len(text.encode()) for text in texts)
    )
