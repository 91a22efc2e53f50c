"""Conversations as token ids: which tokens are answers, with templates of several kinds, and rows of several items."""

import pytest
import torch

from bench.tasks.base import IGNORED, TaskError
from bench.tasks.conversations import Conversations, Packed, packs, rendered, with_answers
from bench.tasks.kinds.instruction_tuning import answers_alone
from tests import architectures

CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|{{ message.role }}|>\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}</s>{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message.content }}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
JOINED = (  # an answer follows its prompt at once, so that a token may cross the border, and has no end of its own
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
THINKING = (  # as Qwen3's: only the last answer has a place for thoughts
    "{% for message in messages %}<|{{ message.role }}|>\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
INSTRUCT = (  # as Mistral's
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %} {{ message.content }}</s>"
    "{% else %}[INST] {{ message.content }} [/INST]{% endif %}{% endfor %}"
)
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT

TURNS = [
    {"role": "system", "content": "Answer in short."},
    {"role": "user", "content": "which number is the red pear"},
    {"role": "assistant", "content": "number 3"},
    {"role": "user", "content": "is it old"},
    {"role": "assistant", "content": "the red pear is old, and so is the port"},
]
SHORT = [{"role": "user", "content": "blue"}, {"role": "assistant", "content": "port"}]


def tokenizer(template=None):
    found = architectures.byte_pairs()
    found.add_tokens(["<think>", "</think>"])
    found.chat_template = template
    return found


@pytest.mark.parametrize("template", [CHAT, MARKED, None], ids=["plain", "generation", "none"])
def test_the_answers_and_their_ends_are_marked_and_nothing_else(template):
    tokens = tokenizer(template)
    ids, answers = with_answers(tokens, TURNS)
    runs, before = [], 0
    for token, mine in zip(ids, answers, strict=True):
        if mine and not before:
            runs.append([])
        if mine:
            runs[-1].append(token)
        before = mine
    assert [tokens.decode(run) for run in runs] == ["number 3</s>", "the red pear is old, and so is the port</s>"]
    assert answers[-1] == 1
    assert rendered(tokens, TURNS)[: len(ids)] == ids


def test_templates_with_and_without_marks_agree():
    assert with_answers(tokenizer(CHAT), TURNS) == with_answers(tokenizer(MARKED), TURNS)


def test_an_answer_without_an_end_of_its_own():
    tokens = tokenizer(JOINED)
    ids, answers = with_answers(tokens, TURNS)
    said = tokens.decode([token for token, mine in zip(ids, answers, strict=True) if mine])
    assert said.replace(" ", "") == "number3theredpearisold,andsoistheport"


def test_a_template_that_refuses_a_conversation_is_told():
    with pytest.raises(
        TaskError, match="refuses a conversation of system, user, assistant, user, assistant: no system"
    ):
        with_answers(tokenizer(STRICT), TURNS)


def test_a_long_conversation_keeps_its_end_and_its_share_of_the_bytes():
    tokens = tokenizer(CHAT)
    whole, cut = (Conversations(tokens, [TURNS], length) for length in (500, 12))
    size = len("number 3") + len("the red pear is old, and so is the port")
    (ids,) = whole.batch([0]).inputs["input_ids"].tolist()
    batch = cut.batch([0])
    assert batch.inputs["input_ids"].tolist() == [ids[-12:]]
    assert whole.facts(0) == (batch_terms(whole), size, False)
    assert cut.facts(0) == (batch.weight, round(size * batch.weight / batch_terms(whole)), True)
    assert batch.labels[0, 0] == IGNORED


def batch_terms(encoded):
    return encoded.batch([0]).weight


class TestEvidence:
    """What is claimed of a batch is not how it was made: here its labels are wrong by hand."""

    def claim(self, template, change=None, cut=frozenset()):
        tokens = tokenizer(template)
        batch = Conversations(tokens, [TURNS, SHORT], 500).batch([0, 1])
        if change is not None:
            change(batch)
        texts = [[turn["content"] for turn in each if turn["role"] == "assistant"] for each in (TURNS, SHORT)]
        return answers_alone(tokens, batch, texts, set(cut))

    @pytest.mark.parametrize("template", [CHAT, MARKED, JOINED, THINKING, INSTRUCT, None])
    def test_it_holds(self, template):
        claim = self.claim(template)
        assert claim.holds, claim.seen

    def test_a_prompt_in_the_loss(self):
        def all_of_it(batch):
            batch.labels[0] = batch.inputs["input_ids"][0]

        assert not self.claim(CHAT, all_of_it).holds

    @pytest.mark.parametrize("template", [CHAT, MARKED])
    @pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
    def test_a_token_of_an_answer_left_out(self, template, at):
        def without(batch):
            places = (batch.labels[1] != IGNORED).nonzero()[:, 0]
            batch.labels[1, places[at]] = IGNORED

        claim = self.claim(template, without)
        assert not claim.holds
        assert "wrong in row 2" in claim.seen

    def test_one_token_of_a_prompt_more(self):
        def more(batch):
            place = int((batch.labels[0] != IGNORED).nonzero()[0])
            batch.labels[0, place - 3] = batch.inputs["input_ids"][0, place - 3]

        assert not self.claim(CHAT, more).holds

    def test_another_token_than_the_one_there(self):
        def other(batch):
            place = int((batch.labels[0] != IGNORED).nonzero()[0])
            batch.labels[0, place] += 1

        assert not self.claim(CHAT, other).holds

    def test_nothing_in_the_loss(self):
        assert not self.claim(CHAT, lambda batch: batch.labels.fill_(IGNORED)).holds


class TestPacked:
    def test_items_fill_rows_and_each_is_there_once(self):
        lengths = [5, 9, 3, 3, 7, 1, 10, 2]
        found = packs(lengths, 10)
        assert sorted(item for pack in found for item in pack) == list(range(8))
        assert all(sum(lengths[item] for item in pack) <= 10 for pack in found)
        assert len(found) == 4, "no fewer would do: they are 40 in all"

    def test_positions_begin_again_and_labels_are_those_of_the_items(self):
        tokens = tokenizer(CHAT)
        items = [TURNS, SHORT, [*SHORT[:1], {"role": "assistant", "content": "the old port"}]]
        alone, packed = Conversations(tokens, items, 200), Packed(tokens, items, 200)
        assert sorted(map(sorted, packed.packs)) == [[0, 1, 2]]
        batch = packed.batch([0])
        assert set(batch.inputs) == {"input_ids", "position_ids"}
        begun = [0]
        for item in packed.packs[0]:
            one = alone.batch([item])
            part = slice(begun[-1], begun[-1] + one.lengths[0])
            assert torch.equal(batch.inputs["input_ids"][0, part], one.inputs["input_ids"][0])
            assert torch.equal(batch.labels[0, part], one.labels[0])
            assert batch.inputs["position_ids"][0, part].tolist() == list(range(one.lengths[0]))
            begun.append(part.stop)
        assert batch.lengths == (begun[-1],)
        assert batch.weight == sum(alone.batch([item]).weight for item in range(3))


def test_the_plain_template_reads_as_it_says():
    tokens = tokenizer()
    ids, _ = with_answers(tokens, TURNS[:3])
    assert tokens.decode(ids) == (
        "<s>### System:\nAnswer in short.\n\n### User:\nwhich number is the red pear\n\n### Assistant:\nnumber 3</s>"
    )
    assert tokens.decode(rendered(tokens, TURNS[1:4], answer_next=True)) == (
        "<s>### User:\nwhich number is the red pear\n\n### Assistant:\nnumber 3</s>\n\n### User:\nis it old\n\n### Assistant:\n"
    )
