"""Masks that hide nothing: what models answer without them."""

import pytest
import torch

from bench.models.registry import open_model
from bench.stage import mask
from bench.tasks.base import Batch
from tests import architectures

MODELS = ["albert", "bert", "deberta-v2", "distilbert", "gpt2", "llama", "opt", "roberta", "t5", "bart"]


def batch(*lengths, width=None, end=9):
    """Items of ordinary tokens with an `end`, padded to the longest."""
    width = width or max(lengths)
    ids = torch.randint(10, 60, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = end
    inputs = {"input_ids": ids.masked_fill(~real, 0), "attention_mask": real.long()}
    ones = (1,) * len(lengths)
    return Batch(inputs, torch.zeros(len(lengths), dtype=torch.long), lengths, ones, tuple(range(len(lengths))))


def test_padding_is_known_without_looking():
    assert not batch(4, 4).padded
    assert batch(4, 3).padded
    assert batch(4, 4, width=5).padded
    whole = batch(4, 4, 2, 4)
    assert [part.padded for part in whole.split(2)] == [False, True]


@pytest.mark.parametrize("name", [name for name in architectures.MODELS if name in MODELS])
def test_where_a_mask_is_idle_whole_batches_are_answered_alike_without_it(name, tmp_path):
    folder = architectures.make(name, tmp_path)
    model, _ = open_model(str(folder), tmp_path).load("AutoModelForSequenceClassification", {"num_labels": 3})
    model.eval()
    end = 9 if model.config.eos_token_id is None else model.config.eos_token_id  # some classify at the end
    assert mask.idle(model, batch(5, 9, 3, end=end))
    whole = batch(7, 7, 7, end=end).inputs
    with torch.no_grad(), mask.unasked(model):
        assert torch.equal(model(**whole).logits, model(**mask.without(whole)).logits)
    # Of what is padded, the mask hides what would be seen.
    some = batch(7, 3, 7, end=end).inputs
    with torch.no_grad(), mask.unasked(model):
        assert not torch.equal(model(**some).logits, model(**mask.without(some)).logits)


class Needs(torch.nn.Module):
    """A model that counts positions by its mask."""

    def __init__(self, needs):
        super().__init__()
        self.embedding = torch.nn.Embedding(99, 4)
        self.needs = needs

    def forward(self, input_ids, attention_mask=None):
        if attention_mask is None and self.needs == "cannot do without":
            raise ValueError("give me a mask")
        positions = torch.zeros_like(input_ids) if attention_mask is None else attention_mask.cumsum(1)
        return Answer(self.embedding(input_ids + positions))


class Answer:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("needs", ["answers otherwise", "cannot do without"])
def test_a_model_that_needs_its_mask_keeps_it(needs):
    assert not mask.idle(Needs(needs), batch(5, 9, 3))


def test_a_compiled_model_keeps_it(tiny_bert, tmp_path):
    model, _ = open_model(str(tiny_bert), tmp_path).load("AutoModelForSequenceClassification", {"num_labels": 3})
    assert mask.idle(model, batch(4))
    model.compile(backend="eager")
    assert not mask.idle(model, batch(4))


def test_nobody_looks_for_padding_inside_and_all_do_afterwards(tiny_bert, tmp_path, monkeypatch):
    model, _ = open_model(str(tiny_bert), tmp_path).load("AutoModelForSequenceClassification", {"num_labels": 3})
    looked = []
    body = type(model.base_model)
    monkeypatch.setattr(body, "warn_if_padding_and_no_attention_mask", lambda *given: looked.append(given))
    given = mask.without(batch(4, 4).inputs)
    with mask.unasked(model):
        model(**given)
    assert looked == []
    model.base_model.warn_if_padding_and_no_attention_mask(given["input_ids"], None)
    assert len(looked) == 1
