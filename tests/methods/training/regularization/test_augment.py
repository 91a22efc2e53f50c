"""Text augmentation: what changes, how much, and what must not."""

import random

import pytest
import torch

from bench.models.architecture import embeddings
from bench.plan import refusals
from bench.plan.context import PlanContext
from bench.recipe import recipe
from bench.tasks.kinds.classification import Classification
from bench.tasks.kinds.language_modelling import LanguageModelling
from bench.testing import jobs
from methods.training.regularization.augment import Augment
from tests.subjects import HERE
from tests.trainings import prepared


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def translator(tmp_path_factory):
    """A directory with a tiny T5 of random weights and a tokenizer of characters: what it says is nonsense, always the same."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("translator")
    signs = ["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = Tokenizer(models.WordLevel({sign: place for place, sign in enumerate(signs)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    ).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(signs), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data *= 20  # what it says depends on what it hears
    model.generation_config.suppress_tokens = [0, 1, 2]
    model.save_pretrained(folder)
    return folder


def rows(batch):
    ids = batch.inputs["input_ids"].tolist()
    return [row[:length] for row, length in zip(ids, batch.lengths, strict=True)]


def changed(training, batch):
    """The batch as the training's loop would change it."""
    (augment,) = training.stage.modifiers
    return augment.transform_batch(training, batch)


# -- EDA


TEXTS = ("one two three four", "red green blue", "up down")


def edited(text, alpha, seed):
    return Augment(how="eda", alpha=alpha)._eda(text, TEXTS, random.Random(seed)).split()


def test_eda_swaps_deletes_or_inserts_that_many_words():
    words = [f"w{number}" for number in range(20)]
    seen = set()
    for seed in range(60):
        found = edited(" ".join(words), 0.1, seed)
        if len(found) == 20:
            seen.add("swap")
            assert sorted(found) == sorted(words)
            assert 2 <= sum(a != b for a, b in zip(found, words, strict=True)) <= 4  # two swaps
        elif len(found) == 18:
            seen.add("delete")
            assert found == [word for word in words if word in found]
        else:
            seen.add("insert")
            assert len(found) == 22
            assert [word for word in found if word in words] == words
            assert {word for word in found if word not in words} <= set(" ".join(TEXTS).split())
    assert seen == {"swap", "delete", "insert"}


@pytest.mark.parametrize("text", ["word", "a a", "two words"])
def test_eda_changes_short_texts_too(text):
    for seed in range(20):
        found = edited(text, 0.1, seed)
        assert found
        assert found != text.split()


# -- in training


@pytest.mark.parametrize("how", ["eda", "embedding_swap"])
def test_share_of_changed_items_is_p(model, tmp_path, how):
    training = prepared(f'full + augment("{how}", p=0.3)', model, tmp_path)
    count = items = 0
    for step, batch in zip(range(40), training.batches(), strict=False):
        training.step = step
        count += sum(new != old for new, old in zip(rows(changed(training, batch)), rows(batch), strict=True))
        items += batch.samples
    assert items == 640
    assert count / items == pytest.approx(0.3, abs=0.07)  # four standard deviations


@pytest.mark.parametrize("how", ["eda", "embedding_swap"])
def test_the_rest_of_a_batch_is_as_it_was(model, tmp_path, how):
    training = prepared(f'full + augment("{how}", p=0.5)', model, tmp_path)
    batch = training.probe
    new = changed(training, batch)
    assert torch.equal(new.labels, batch.labels)
    assert (new.items, new.terms) == (batch.items, batch.terms)
    assert new.inputs.keys() == batch.inputs.keys()
    assert tuple(new.inputs["attention_mask"].sum(1).tolist()) == new.lengths
    assert new.inputs["input_ids"].shape == new.inputs["attention_mask"].shape
    assert 0 < sum(a == b for a, b in zip(rows(new), rows(batch), strict=True)) < batch.samples
    # What the tokenizer puts around a text is still there.
    text = training.tokenizer.decode(rows(new)[0])
    plain = training.tokenizer.decode(rows(batch)[0])
    assert text.split()[0] == plain.split()[0]
    assert (text.endswith("[SEP]"), text.startswith("[CLS]")) == (plain.endswith("[SEP]"), plain.startswith("[CLS]"))


@pytest.mark.parametrize("how", ["eda", "embedding_swap"])
def test_it_is_the_same_for_a_seed_and_a_step_and_another_for_others(tiny_bert, tmp_path, how):
    def ids(step=0, seed=0):
        training = prepared(f'full + augment("{how}")', tiny_bert, tmp_path, seed=seed)
        training.step = step
        return rows(changed(training, training.probe))

    assert ids() == ids()
    assert ids() != ids(step=1)
    assert ids() != ids(seed=1)


def test_swapped_tokens_are_near_their_old_ones(model, tmp_path):
    training = prepared('full + augment("embedding_swap", p=1.0, alpha=0.5, k=3)', model, tmp_path)
    weight = embeddings(training.model).weight.detach()
    special = set(training.tokenizer.all_special_ids)
    swapped = 0
    for old, new in zip(rows(training.probe), rows(changed(training, training.probe)), strict=True):
        assert len(old) == len(new)
        ordinary = [place for place, token in enumerate(old) if token not in special]
        differ = [place for place, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        assert set(differ) <= set(ordinary)
        assert len(differ) == -(-len(ordinary) // 2)
        for place in differ:
            cosines = torch.nn.functional.cosine_similarity(weight[old[place]][None], weight)
            nearest = [token for token in cosines.argsort(descending=True).tolist() if token not in special]
            assert nearest[0] == old[place]
            assert new[place] in nearest[1:4]
            swapped += 1
    assert swapped > 30


def test_tokens_in_the_record_are_those_that_were_trained_on(tiny_bert, tmp_path):
    plain, augmented = (
        jobs.run(text, tiny_bert, tmp_path, seed=1)[2][0]["training"]["tokens"]
        for text in ("full", 'full + augment("eda", p=1.0, alpha=1.0)')
    )
    assert len(plain) == len(augmented)
    assert plain != augmented


# -- back-translation


def test_texts_are_translated_there_and_back(model, tmp_path, translator):
    text = f'full + augment("back_translation", p=0.5, forward_model="{translator}", backward_model="{translator}")'
    training = prepared(text, model, tmp_path)
    state = torch.get_rng_state()
    new = changed(training, training.probe)
    assert torch.equal(torch.get_rng_state(), state)  # what the training draws is not touched
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    speaker, listener = (
        AutoModelForSeq2SeqLM.from_pretrained(translator).eval(),
        AutoTokenizer.from_pretrained(translator),
    )

    def said(text):
        inputs = listener(text, return_tensors="pt", truncation=True, max_length=16)
        made = speaker.generate(**inputs, max_new_tokens=16, num_beams=1, do_sample=False)
        return listener.decode(made[0], skip_special_tokens=True)

    seen = 0
    for item, before, after in zip(training.probe.items, rows(training.probe), rows(new), strict=True):
        if before != after:
            seen += 1
            original = training.task.texts("train")[item]
            expected = said(said(original)).strip() or original
            assert after == training.tokenizer(expected, truncation=True, max_length=16)["input_ids"]
    assert seen


def test_back_translation_is_proven(tiny_bert, tmp_path, translator):
    text = f'lora(r=2) + augment("back_translation", forward_model="{translator}", backward_model="{translator}")'
    status, reason, _ = jobs.run(text, tiny_bert, tmp_path)
    assert status == "ok", reason


# -- planning


def problems(text, task=Classification, suite_folder=None):
    (stage,) = recipe.parse(text).stages
    context = PlanContext(
        (), stage, HERE, task, "bert", 8, 10, **({"suite_folder": suite_folder} if suite_folder else {})
    )
    return list(refusals.problems(stage.modifiers[0], context))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('full + augment("eda", k=3)', "eda has no k"),
        ('full + augment("embedding_swap", forward_model="x")', "embedding_swap has no forward_model"),
        ('full + augment("back_translation", backward_model="tests")', "needs a forward_model"),
    ],
)
def test_options_of_another_way_are_refused(text, says):
    assert any(says in problem for problem in problems(text))


def test_translators_that_are_not_there_are_refused(translator):
    near, far = str(translator), "Helsinki-NLP/opus-mt-en-de"
    assert problems(f'full + augment("back_translation", forward_model="{near}", backward_model="{near}")') == []
    (problem,) = problems(f'full + augment("back_translation", forward_model="{near}", backward_model="{far}")')
    assert "hf download Helsinki-NLP/opus-mt-en-de" in problem
    (problem,) = problems(f'full + augment("back_translation", forward_model="{near}", backward_model="no/such/place")')
    assert "`no/such/place` is no directory" in problem


def test_a_directory_is_seen_from_the_suites_folder_and_its_content_is_part_of_the_result(translator):
    method = Augment(how="back_translation", forward_model=translator.name, backward_model=str(translator))
    text = f"full + {method}"
    assert problems(text, suite_folder=translator.parent) == []
    reads = method.reads(translator.parent)
    assert len(reads) == 2
    assert len(set(reads.values())) == 1
    assert Augment(how="eda").reads(translator.parent) == {}


def test_pretraining_has_items_of_its_own():
    assert "items of its own" in problems('pretrain("mlm") + augment("eda")')[0]


def test_a_language_models_labels_are_its_texts():
    assert "its texts" in problems('full + augment("eda")', task=LanguageModelling)[0]


@pytest.mark.parametrize(
    "text",
    [
        'lora(r=2) + augment("eda") + accumulate(2) + mixed_precision',
        'full + augment("embedding_swap") + contrastive("supcon") + neftune',
    ],
)
def test_with_others(model, tmp_path, text):
    status, reason, _ = jobs.run(text, model, tmp_path)
    assert status == "ok", reason
