"""Instruction tuning and dialogue: against loops of plain transformers, and data with faults."""

import json
import math

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from bench.machine import machine
from bench.models.sources.directory import Directory
from bench.plan import plan
from bench.suite.suite import SuiteError, of
from bench.tasks.base import IGNORED
from bench.tasks.registry import check_table, open_task
from bench.testing import jobs
from tests import architectures

THINGS = ("pear", "port", "number", "red thing")


def pairs(count=120):
    return [
        {
            "prompt": f"the {THINGS[n % 4]} number {n}",
            "response": f"{THINGS[n % 4]} {n} is {'old' if n % 3 else 'blue'}",
        }
        for n in range(count)
    ]


def conversations(count=90):
    return [
        {
            "messages": [
                {"role": "system", "content": "be short"},
                {"role": "user", "content": f"which {THINGS[n % 4]} {n}"},
                {"role": "assistant", "content": f"the red {n}"},
                {"role": "user", "content": "is it old"},
                {"role": "assistant", "content": "the blue one is " + "old " * (n % 5 + 1)},
            ]
        }
        for n in range(count)
    ]


def written(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return name


def table(folder, rows, kind="instruction_tuning", **keys):
    return check_table({"kind": kind, "data": str(folder / written(folder, rows)), **keys})


def task(folder, rows, kind="instruction_tuning", **keys):
    return open_task(table(folder, rows, kind, **keys), folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return architectures.make("llama", tmp_path_factory.mktemp("models"))


@pytest.fixture
def loaded(llama):
    model, tokenizer = Directory(llama).load("AutoModelForCausalLM", {})
    return model.eval(), tokenizer


def by_hand(model, tokenizer, messages):
    """The nats and the hits of each answer's tokens, one conversation at a time, by text alone: the template is written out."""
    text, spans = "<s>", []
    for number, turn in enumerate(messages):
        text += {"system": "### System:\n", "user": "### User:\n", "assistant": "### Assistant:\n"}[turn["role"]]
        start = len(text)
        text += turn["content"] + ("</s>" if turn["role"] == "assistant" else "")
        if turn["role"] == "assistant":
            spans.append((start, len(text)))
        text += "\n\n" if number + 1 < len(messages) else ""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([found["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0].double().log_softmax(-1)
    nats, hits = [], 0
    for place, (start, stop) in enumerate(found["offset_mapping"]):
        if any(first <= start and stop <= last for first, last in spans):
            nats.append(-float(logits[place - 1, ids[0, place]]))
            hits += int(logits[place - 1].argmax()) == int(ids[0, place])
    return nats, hits


class TestAgainstALoopOfTransformers:
    @pytest.mark.parametrize("rows", [pairs(), conversations()], ids=["pairs", "messages"])
    def test_the_loss(self, rows, loaded, tmp_path):
        model, tokenizer = loaded
        keys = {"messages": "messages"} if "messages" in rows[0] else {}
        ours = task(tmp_path, rows, **keys)
        batch = next(ours.batches("train", tokenizer, batch_size=8, max_length=200))
        nats = [each for item in batch.items for each in by_hand(model, tokenizer, ours.data.answers("train")[item])[0]]
        with torch.no_grad():
            outputs = model(**batch.inputs)
            loss = ours.criterion(outputs, batch)
            theirs = model(**batch.inputs, labels=batch.labels).loss
        assert len(nats) == batch.weight
        assert float(loss) == pytest.approx(sum(nats) / len(nats), rel=1e-4)
        assert float(loss) == pytest.approx(float(theirs), rel=1e-5)
        assert ours.logits(outputs, batch).shape == (batch.weight, 420)

    def test_the_scores(self, loaded, tmp_path):
        model, tokenizer = loaded
        ours = task(tmp_path, conversations(), messages="messages")
        quality = ours.evaluate(model, tokenizer, batch_size=4, max_length=200)
        nats, hits, size, each = [], 0, 0, []
        for messages in ours.data.answers("test"):
            one, right = by_hand(model, tokenizer, messages)
            nats += one
            hits += right
            each.append(sum(one))
            size += sum(len(turn["content"].encode()) for turn in messages if turn["role"] == "assistant")
        assert quality.metrics["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-4)
        assert quality.metrics["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)
        assert quality.metrics["token_accuracy"] == pytest.approx(hits / len(nats))
        assert quality.extra["tokens"] == len(nats)
        assert quality.extra["cut"] == 0
        assert "rouge_l" not in quality.metrics
        share = len(each) / (math.log(2) * size)
        assert quality.correct == pytest.approx([one * share for one in each], rel=1e-4)

    def test_what_is_written(self, loaded, tmp_path):
        model, tokenizer = loaded
        ours = task(tmp_path, pairs(60), generate=True, max_new_tokens=6, metric="rouge_l")
        quality = ours.evaluate(model, tokenizer, batch_size=8, max_length=200)
        scorer, scores = RougeScorer(["rougeL"]), []
        for messages in ours.data.answers("test"):
            prompt = f"<s>### User:\n{messages[0]['content']}\n\n### Assistant:\n"
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            for _ in range(6):
                with torch.no_grad():
                    ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
                if int(ids[0, -1]) == tokenizer.eos_token_id:
                    break
            said = tokenizer.decode(ids[0], skip_special_tokens=True)[len(prompt) - len("<s>") :]
            scores.append(scorer.score(messages[1]["content"], said)["rougeL"].fmeasure)
        assert quality.correct == pytest.approx(scores)
        assert quality.metrics["rouge_l"] == pytest.approx(sum(scores) / len(scores))
        assert quality.extra["generation_seconds"] > 0

    def test_packed_rows_have_the_loss_of_their_items(self, loaded, tmp_path):
        model, tokenizer = loaded
        rows = pairs()
        plain, packed = task(tmp_path, rows), task(tmp_path, rows, packing=True)
        batch = next(packed.batches("train", tokenizer, batch_size=3, max_length=150))
        items = [item for row in batch.items for item in packed.encoded("train", tokenizer, 150).packs[row]]
        assert len(items) > 6
        alone = plain.encoded("train", tokenizer, 150).batch(items)
        with torch.no_grad():
            ours, theirs = (of.criterion(model(**b.inputs), b) for of, b in ((packed, batch), (plain, alone)))
        assert batch.weight == alone.weight
        assert batch.tokens == alone.tokens
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)

    def test_chance_is_each_token_alike(self, loaded, tmp_path):
        _, tokenizer = loaded
        ours = task(tmp_path, pairs())
        chance = ours.chance(tokenizer, 200)
        assert chance.metrics["perplexity"] == len(tokenizer)

        class Even(torch.nn.Module):
            weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, input_ids, attention_mask):
                return type("Outputs", (), {"logits": torch.zeros(*input_ids.shape, len(tokenizer))})

        found = ours.evaluate(Even(), tokenizer, batch_size=8, max_length=200)
        assert found.metrics["bits_per_byte"] == pytest.approx(chance.metrics["bits_per_byte"])


class TestData:
    def test_a_prompt_may_have_several_answers_which_stay_in_one_split(self, tmp_path):
        rows = [{"prompt": f"prompt {n}", "response": f"answer {k}"} for n in range(60) for k in (1, 2, 1)]
        ours = task(tmp_path, rows)
        assert ours.problems() == []
        splits = [set(ours.texts(split)) for split in ("train", "validation", "test")]
        assert sum(map(len, splits)) == 60
        assert len(ours.data) == 120
        assert ours.counts()["equal"] == 60
        assert ours.counts()["conflicting"] == 0

    def test_a_system_message(self, tmp_path):
        rows = [{**row, "rule": "be kind"} for row in pairs()]
        first = task(tmp_path, rows, system="rule").data.answers("train")[0]
        assert [turn["role"] for turn in first] == ["system", "user", "assistant"]
        assert first[0]["content"] == "be kind"

    def test_what_follows_the_last_answer_is_left_out(self, tmp_path):
        rows = [{"messages": [*row["messages"], {"role": "user", "content": "thanks"}]} for row in conversations()]
        ours = task(tmp_path, rows, messages="messages")
        assert {each[-1]["role"] for each in ours.data.answers("train")} == {"assistant"}

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("hello", "line 2: `messages` is a list of turns, as"),
            ([], "`messages` is a list of turns"),
            ([{"from": "human", "value": "hi"}], "turn 1: it has a role and a content, as in"),
            ([{"role": "human", "content": "hi"}], "turn 1: its role is 'human'; known: system, user, assistant"),
            ([{"role": "user", "content": " "}], "turn 1: its content is empty or no text"),
            ([{"role": "user", "content": "hi"}], "no turn is the assistant's, so there is nothing to learn"),
            ([{"role": "assistant", "content": "hi"}], "the first turn is the assistant's, and answers nothing"),
            (
                [{"role": role, "content": "hi"} for role in ("user", "assistant", "assistant")],
                "turn 3: the assistant's turn follows another one",
            ),
        ],
    )
    def test_a_wrong_row_is_named_with_its_mend(self, value, said, tmp_path):
        (problem,) = task(tmp_path, [conversations()[0], {"messages": value}], messages="messages").problems()
        assert "rows.jsonl: line 2: `messages`" in problem
        assert said in problem

    def test_an_empty_response_is_named(self, tmp_path):
        (problem,) = task(tmp_path, [*pairs(), {"prompt": "hello", "response": ""}]).problems()
        assert "line 121: `response` is empty; fill it in or take the row out" in problem

    def test_rouge_is_of_what_is_written(self, tmp_path):
        with pytest.raises(Exception, match="rouge_l is of text that the model writes; give generate = true"):
            task(tmp_path, pairs(), metric="rouge_l")


class TestDialogue:
    def test_turns_are_the_others_and_the_replies(self, tmp_path):
        rows = [{"turns": [f"hello {n}", "good day", "how are you", "fine", "bye"]} for n in range(60)]
        ours = task(tmp_path, rows, "dialogue")
        first = ours.data.answers("train")[0]
        assert [turn["role"] for turn in first] == ["user", "assistant"] * 2
        assert first[3]["content"] == "fine"
        same = [
            {
                "messages": [
                    {"role": role, "content": text}
                    for role, text in zip(("user", "assistant") * 2, row["turns"], strict=False)
                ]
            }
            for row in rows
        ]
        assert task(tmp_path, same, "dialogue", messages="messages").fingerprint() == ours.fingerprint()

    @pytest.mark.parametrize(
        ("turns", "said"),
        [
            ("hello there", 'line 2: `turns` is a list of texts, as ["Hello.", "Good day!"]'),
            (["hello"], "line 2: `turns` has 1 turns, and a reply is the second at least; take the row out"),
            (["hello", 3], "line 2: `turns`, turn 2: it is empty or no text; fill it in"),
        ],
    )
    def test_a_wrong_row_is_named_with_its_mend(self, turns, said, tmp_path):
        (problem,) = task(tmp_path, [{"turns": ["a", "b"]}, {"turns": turns}], "dialogue").problems()
        assert said in problem


def planned(folder, model, recipes, length=64, **keys):
    data = table(folder, keys.pop("rows", pairs()), keys.pop("kind", "instruction_tuning"), **keys)
    suite = of(
        {
            "model": str(model), "task": data.model_dump(exclude_defaults=True) | {"kind": data.kind},
            "budget": {"steps": 4, "batch_size": 4, "max_length": length}, "measure": {"latency": [[1, 8]]},
            "recipes": recipes,
        }
    )  # fmt: skip
    return plan.make(suite, folder, machine.look("cpu", 2))


class TestPlanning:
    def test_encoders_and_pairs_are_refused_with_the_mend(self, tmp_path):
        for name, said in (("bert", "reads in both directions and writes no answers; use a decoder"), ("t5", "give kind = \"seq2seq\"")):  # fmt: skip
            problem = task(tmp_path, pairs()).model_problem(name, architectures.structure(name, "AutoModelForMaskedLM" if name == "bert" else "AutoModelForSeq2SeqLM"))  # fmt: skip
            assert said in problem

    def test_packing_is_refused_where_items_would_see_each_other(self, llama, tmp_path):
        bloom = architectures.make("bloom", tmp_path)
        (cell,) = planned(tmp_path, bloom, {"full": "full"}, packing=True).cells
        assert "does not keep the items of a row apart by their positions" in cell.refused[0]
        cells = planned(tmp_path, llama, {"a": "full", "b": "prompt(2)", "c": "prefix(2)", "d": 'full + adversarial("fgm")'}, packing=True).cells  # fmt: skip
        assert [bool(cell.refused) for cell in cells] == [False, True, True, True]
        assert all("leave" in reason and "packing" in reason for cell in cells[1:] for reason in cell.refused)

    def test_room_for_what_is_written_and_the_plain_template_are_told(self, llama, tmp_path):
        found = planned(tmp_path, llama, {"full": "full"})
        assert "has no chat template, so turns are told apart by plain lines" in found.notes(["full"])[-1].text
        (cell,) = planned(tmp_path, llama, {"full": "full"}, 200, generate=True).cells
        assert (
            "task.max_new_tokens: llama has 256 positions, and 128 are written after items of 200 tokens"
            in cell.refused[0]
        )

    def test_a_wrong_key_is_told(self, tmp_path):
        with pytest.raises(SuiteError, match="respons"):
            of({"model": "m", "task": {"kind": "instruction_tuning", "data": "x.jsonl", "respons": "a"}, "recipes": {"full": "full"}})  # fmt: skip


KEYS = {"budget": {"steps": 4, "batch_size": 4, "max_length": 150}, "measure": {"latency": []}}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("text", ["full", "lora(r=2)", "nf4 >> lora(r=2)"])
def test_it_trains_and_says_so(text, packing, llama, tmp_path):
    data = table(tmp_path, pairs(), packing=packing, generate=True, max_new_tokens=4)
    status, reason, records = jobs.run(text, llama, tmp_path, task=data, **KEYS)
    assert status == "ok", reason
    claims = {claim["text"]: claim for claim in records[-1]["evidence"]}
    assert claims["no token of a prompt is in the loss, and every token of an answer is"]["holds"]
    assert ("the items of a packed row see nothing of each other" in claims) == packing
    own = {"bits_per_byte", "perplexity", "token_accuracy", "rouge_l"}
    assert own <= set(records[-1]["quality"]["metrics"])


def test_a_leak_of_packed_items_ends_invalid(llama, tmp_path, monkeypatch):
    from transformers.models.llama import modeling_llama

    real = modeling_llama.create_causal_mask
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **given: real(**{**given, "position_ids": None}))
    data = table(tmp_path, pairs(), packing=True)
    status, reason, _ = jobs.run("full", llama, tmp_path, task=data, **KEYS)
    assert status == "invalid"
    assert "the items of a packed row see nothing of each other" in reason


def test_a_wrong_mask_ends_invalid(llama, tmp_path, monkeypatch):
    from bench.tasks import conversations as made

    monkeypatch.setattr(
        made, "with_answers", lambda tokenizer, turns: (ids := made.rendered(tokenizer, turns), [1] * len(ids))
    )
    status, reason, _ = jobs.run("full", llama, tmp_path, task=table(tmp_path, pairs(119)), **KEYS)
    assert status == "invalid"
    assert "no token of a prompt is in the loss" in reason


def test_ignored_is_what_no_label_is():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED
