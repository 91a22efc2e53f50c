"""Greedy writing against transformers' own loop by hand, and whether it depends on what else is in a batch."""

from types import SimpleNamespace

import peft
import pytest
import torch

from bench.models.sources.directory import Directory
from bench.tasks.generate import CannotWrite, greedy
from tests import architectures

TEXTS = [
    "the red pear number 3", "old", "the blue port number 22 is old and red is", "the red", "pear port pear",
    "is is is is the number", "blue", "a", "b c d e f", "the red port number",
]  # fmt: skip


def load(name, folder, auto_class):
    model, tokenizer = Directory(architectures.make(name, folder)).load(auto_class, {})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # weights as they are drawn write one word again and again
            parameter.add_(torch.randn_like(parameter) * (0.05 if auto_class.endswith("CausalLM") else 0.3))
    return model.eval(), tokenizer


def by_hand(model, ids, steps, begin=None):
    """The likeliest token, again and again, each time with all before it and without a cache."""
    written = []
    with torch.no_grad():
        for _ in range(steps):
            if begin is None:
                logits = model(input_ids=torch.tensor([[*ids, *written]]), use_cache=False).logits
            else:
                logits = model(
                    input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[begin, *written]]), use_cache=False
                ).logits
            written.append(int(logits[0, -1].argmax()))
            if written[-1] == model.generation_config.eos_token_id:
                break
    return written


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "t5", "bart"])
def test_texts_are_the_likeliest_tokens_whatever_the_batch(name, tmp_path):
    pair = name in ("t5", "bart")
    model, tokenizer = load(name, tmp_path, "AutoModelForSeq2SeqLM" if pair else "AutoModelForCausalLM")
    model.generation_config.forced_eos_token_id = None  # BART's, at the last place
    model.generation_config.update(num_beams=3, repetition_penalty=1.7, min_length=9)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    alone = greedy(model, tokenizer, prompts, batch_size=1, max_new_tokens=8)
    together = greedy(model, tokenizer, prompts, batch_size=8, max_new_tokens=8)
    assert alone.texts == together.texts
    assert len(set(alone.texts)) > 2
    assert alone.seconds > 0
    begin = model.config.decoder_start_token_id if pair else None
    expected = [by_hand(model, ids, 8, begin) for ids in prompts]
    assert list(alone.texts) == [text.strip() for text in tokenizer.batch_decode(expected, skip_special_tokens=True)]


@pytest.mark.filterwarnings("ignore:`.*` is deprecated:FutureWarning", "ignore:Position ids are not supported")
@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "prompt", "prefix"],
)
def test_adapters_and_virtual_tokens(config, tmp_path):
    model, tokenizer = load("llama", tmp_path, "AutoModelForCausalLM")
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    plain = greedy(model, tokenizer, prompts, batch_size=8, max_new_tokens=8).texts
    wrapped = peft.get_peft_model(model, config).eval()
    alone = greedy(wrapped, tokenizer, prompts, batch_size=1, max_new_tokens=8).texts
    assert alone == greedy(wrapped, tokenizer, prompts, batch_size=8, max_new_tokens=8).texts
    assert alone != plain
    with torch.no_grad():  # with a peft model's own forward, each time with all before
        written = [*prompts[0]]
        for _ in range(8):
            written.append(int(wrapped(input_ids=torch.tensor([written])).logits[0, -1].argmax()))
            if written[-1] == model.generation_config.eos_token_id:
                break
    assert alone[0] == tokenizer.decode(written[len(prompts[0]) :], skip_special_tokens=True).strip()


def test_what_is_no_model_of_transformers_is_refused():
    other = torch.nn.Linear(2, 2)
    with pytest.raises(CannotWrite, match="a Linear has no `generate`"):
        greedy(other, SimpleNamespace(pad_token_id=0), [[1]], batch_size=1, max_new_tokens=2)
