from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tasks.base import TaskError
from bench.tasks.kinds.masked_lm import MaskedLM, MaskedTexts, halves, paired
from tests.bench.tasks.kinds import trials


def rows(count: int = 120) -> list[dict[str, str]]:
    draw = random.Random(0)
    word = lambda: draw.choice(["abab", "cdcd", "efef", "ghgh"])  # noqa: E731
    return [{"text": f"{word()} {word()} {number}. {word()} {word()}."} for number in range(count)]


@pytest.fixture(scope="module")
def masking_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with both of BERT's heads."""
    from transformers import AutoConfig, AutoTokenizer, BertForPreTraining

    folder = tmp_path_factory.mktemp("model") / "bert"
    torch.manual_seed(0)
    BertForPreTraining(AutoConfig.from_pretrained(tiny_bert)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    return {"kind": "masked_lm", "data": str(trials.jsonl(tmp_path / "texts.jsonl", rows()))}


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


class TestGaps:
    def test_what_stands_in_them(self, tokenizer: Any) -> None:
        texts = MaskedTexts(tokenizer, [["abcdefgh " * 5] * 300], None, 64)
        batch = texts.batch(range(300))
        (other,) = texts.batch([299]).inputs["input_ids"]
        assert torch.equal(batch.inputs["input_ids"][299], other), "whatever stands beside it"
        plain = torch.tensor(tokenizer("abcdefgh " * 5)["input_ids"])
        labels, ids = batch.labels[:, :-1], batch.inputs["input_ids"]
        gaps = labels != -100
        assert set(gaps.sum(1).tolist()) == {6} == set(batch.terms), "15 % of 40"
        assert torch.equal(torch.where(gaps, labels, ids), plain.expand_as(ids)), "the truth, and all else as it was"
        assert not gaps[:, [0, -1]].any()
        shares = [
            float(each.float().mean()) for each in (ids[gaps] == tokenizer.mask_token_id, ids[gaps] == labels[gaps])
        ]
        assert shares == pytest.approx([0.8, 0.1], abs=0.03)
        assert gaps.float().mean(0)[1:-1].std() < 0.03, "all places alike"

    def test_training_draws_them_by_seed_epoch_and_item(self, table: dict[str, Any], tokenizer: Any) -> None:
        task = trials.own(Path(table["data"]), "masked_lm")
        assert isinstance(task, MaskedLM)

        def drawn(seed: int, count: int = 2) -> dict[int, list[list[int]]]:
            found: dict[int, list[list[int]]] = {}
            batches = task.batches(
                "train", tokenizer, batch_size=7, max_length=64, generator=torch.Generator().manual_seed(seed)
            )
            size = len(task.encoded("train", tokenizer, 64))
            for _ in range(count * size // 7):
                batch = next(batches)
                for item, labels in zip(batch.items, batch.labels.tolist(), strict=True):
                    found.setdefault(item, []).append([place for place, label in enumerate(labels) if label != -100])
            return found

        first, again, other = drawn(0), drawn(0), drawn(1)
        assert first == again
        differing = [gaps[0] != gaps[1] for gaps in first.values() if len(gaps) == 2]
        assert sum(differing) > 0.8 * len(differing), "in the next epoch"
        assert sum(first[item][0] != other[item][0] for item in first) > 0.8 * len(first), "by another seed"

    def test_evaluation_always_has_the_same(self, table: dict[str, Any], tokenizer: Any) -> None:
        task = trials.own(Path(table["data"]), "masked_lm")
        found = [next(task.batches("test", tokenizer, batch_size=8, max_length=64)).labels for _ in range(2)]
        assert torch.equal(*found)

    def test_a_short_text_has_one_and_a_long_one_windows(self, tokenizer: Any) -> None:
        texts = MaskedTexts(tokenizer, [["a", "bc " * 20]], None, 12)
        assert texts.batch([0]).terms == (1,)
        assert [texts.text(item) for item in range(len(texts))] == [0, 1, 1, 1, 1]
        assert sum(texts.lengths[1:]) - 2 * 4 == 40, "every token is in one"

    def test_a_tokenizer_without_a_mask_token(self, tiny_llama: Path) -> None:
        from transformers import AutoTokenizer

        with pytest.raises(TaskError, match="no mask token; use an encoder"):
            MaskedTexts(AutoTokenizer.from_pretrained(tiny_llama), [["a"]], None, 12)


class TestPairs:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("One. Two.", ("One.", "Two.")),
            ("A longer first one. B! C.", ("A longer first one.", "B! C.")),
            ("No end", None),
            ("End.", None),
            ("title\n\nand more", ("title", "and more")),
            ("v1.5 is out", None),
        ],
    )
    def test_halves(self, text: str, parts: tuple[str, str] | None) -> None:
        assert halves(text) == parts

    def test_half_have_anothers(self) -> None:
        firsts, seconds = [f"one {n}." for n in range(400)], [f"two {n}." for n in range(400)]
        ones, twos, apart = paired(firsts, seconds)
        assert ones == firsts
        assert sum(apart) == pytest.approx(200, abs=40)
        assert [two != own for two, own in zip(twos, seconds, strict=True)] == [bool(each) for each in apart]
        assert paired(["a", "b"], ["same", "same"])[2] == [0, 0]

    def test_texts_of_one_sentence_are_counted(self, tmp_path: Path) -> None:
        task = trials.own(
            trials.jsonl(tmp_path / "rows.jsonl", [*rows(), {"text": "one sentence"}]), "masked_lm", next_sentence=True
        )
        assert task.problems() == []
        assert task.counts()["one_sentence"] == 1
        assert task.metrics == ("perplexity", "masked_accuracy", "pair_accuracy")


def test_a_plain_loop_has_the_same_loss_and_scores(masking_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "masked_lm")
    assert isinstance(task, MaskedLM)
    model, tokenizer = trials.loaded(masking_bert, task)
    nats, right, gaps = 0.0, 0, 0
    for batch in task.batches("test", tokenizer, batch_size=1, max_length=64):
        with torch.no_grad():
            outputs = model(**batch.inputs, labels=batch.labels[:, :-1])
        wanted = (batch.labels[0, :-1] != -100).nonzero().flatten().tolist()
        nats += float(outputs.loss) * len(wanted)
        right += sum(int(outputs.logits[0, place].argmax()) == int(batch.labels[0, place]) for place in wanted)
        gaps += len(wanted)
    assert trials.loss(task, model, tokenizer) == pytest.approx(nats / gaps, rel=1e-5)
    quality = trials.alike_in_any_batch(task, model, tokenizer)
    assert quality.metrics["perplexity"] == pytest.approx(math.exp(nats / gaps), rel=1e-4)
    assert quality.metrics["masked_accuracy"] == pytest.approx(right / gaps)


def test_pairs_have_berts_loss(masking_bert: Path, table: dict[str, Any]) -> None:
    task = trials.own(Path(table["data"]), "masked_lm", next_sentence=True)
    assert isinstance(task, MaskedLM)
    model, tokenizer = trials.loaded(masking_bert, task)
    model.cls.seq_relationship.weight.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    total, gaps, told = 0.0, 0, []
    for batch in task.batches("test", tokenizer, batch_size=1, max_length=64):
        with torch.no_grad():
            outputs = model(**batch.inputs, labels=batch.labels[:, :-1], next_sentence_label=batch.labels[:, -1])
        total += float(outputs.loss) * batch.weight
        gaps += batch.weight
        told.append(int(outputs.seq_relationship_logits.argmax()) == int(batch.labels[0, -1]))
    assert trials.loss(task, model, tokenizer, batch_size=4) == pytest.approx(total / gaps, rel=1e-5)
    quality = trials.alike_in_any_batch(task, model, tokenizer)
    assert quality.metrics["pair_accuracy"] == sum(told) / len(told)
    chance = task.chance(tokenizer, 64).metrics
    assert chance.keys() == quality.metrics.keys()
    assert chance["perplexity"] == len(tokenizer)


class TestRecipes:
    @pytest.mark.parametrize("pairs", [False, True])
    def test_full_learns(self, pairs: bool, masking_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        budget = {"steps": 60, "batch_size": 8, "max_length": 64}
        *_, record, _ = trials.run(
            "full(lr=3e-3)", masking_bert, {**table, "next_sentence": pairs}, tmp_path, budget=budget
        )
        assert record["quality"]["metrics"]["perplexity"] < 30  # of 137 tokens

    @pytest.mark.parametrize(
        "text", ["lora(r=2)", "full + accumulate(2)", "distill(layers=1)", "full >> torch_int8_dynamic"]
    )
    @pytest.mark.parametrize("pairs", [False, True])
    def test_runs(self, text: str, pairs: bool, masking_bert: Path, table: dict[str, Any], tmp_path: Path) -> None:
        trials.run(text, masking_bert, {**table, "next_sentence": pairs}, tmp_path)

    @pytest.mark.parametrize("text", ["full + label_smoothing", "full + rdrop"])
    def test_what_needs_all_logits_in_one_tensor(
        self, text: str, masking_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        trials.run(text, masking_bert, table, tmp_path)
        (reason,) = trials.refused(text, masking_bert, {**table, "next_sentence": True}, tmp_path)
        assert "gives prediction_logits and seq_relationship_logits" in reason

    def test_a_head_that_is_the_embeddings_does_not_train_alone(
        self, masking_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        (reason,) = trials.refused("head", masking_bert, table, tmp_path)
        assert "the head of this model is its embeddings" in reason
        (reason,) = trials.refused("full >> prune_hidden(0.5)", masking_bert, table, tmp_path)
        assert "other channels would be cut of either; use prune_ffn" in reason

    @pytest.mark.parametrize("pairs", [False, True])
    def test_an_encoder_without_the_heads_gets_new_ones(
        self, pairs: bool, tiny_bert: Path, table: dict[str, Any], tmp_path: Path
    ) -> None:
        trials.run("full", tiny_bert, {**table, "next_sentence": pairs}, tmp_path)
        (reason,) = trials.refused("distill(layers=1)", tiny_bert, {**table, "next_sentence": pairs}, tmp_path)
        assert "the teacher's head is untrained" in reason

    def test_a_decoder(self, tiny_llama: Path, table: dict[str, Any], tmp_path: Path) -> None:
        (reason,) = trials.refused("full", tiny_llama, table, tmp_path)
        assert "no AutoModelForMaskedLM for a llama model, so it cannot do a masked_lm task" in reason
        (reason,) = trials.refused("full", tiny_llama, {**table, "next_sentence": True}, tmp_path)
        assert "no head for `next_sentence` for a llama model; leave that key out" in reason
