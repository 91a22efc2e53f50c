"""Scores by lm-eval against bare loops over the same items."""

import json
import math

import pytest
import torch

pytest.importorskip("lm_eval")

from bench.measure import lm_eval
from bench.models.registry import open_model
from bench.tasks import lm_eval as tasks
from bench.testing import jobs

CHOICES = ["pears", "iron", "nile"]
"""Of different lengths, so that a score for each character tells other answers than the plain one."""


def written(folder, name="mine", items=23, metrics=("acc", "acc_norm"), **more):
    """A multiple choice task beside the suite, and its data."""
    rows = [{"question": f"word {number * 7 % 11}:", "answer": number % 3} for number in range(items)]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [
        f"task: {name}", "dataset_path: json", f"dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}", "test_split: test",
        "output_type: multiple_choice", 'doc_to_text: "{{question}}"', f"doc_to_choice: {json.dumps(CHOICES)}",
        "doc_to_target: answer", "metric_list:",
    ]  # fmt: skip
    for metric in metrics:
        lines += [f"  - metric: {metric}", "    aggregation: mean", "    higher_is_better: true"]
    (folder / f"{name}.yaml").write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in more.items())]))
    return rows


def opened(model, folder):
    """The model, its weights so large that what it answers depends on the question."""
    loaded, tokenizer = open_model(str(model), folder).load("AutoModelForCausalLM", {})
    for parameter in loaded.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(12)
    return loaded.eval(), tokenizer


def by_hand(model, tokenizer, rows):
    """Of each row, 1 where the right choice is the likeliest: as a whole, and for each of its characters."""
    found = []
    for row in rows:
        sums = []
        for choice in CHOICES:
            context = tokenizer(row["question"])["input_ids"]
            whole = tokenizer(f"{row['question']} {choice}")["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([whole])).logits[0, -len(whole) :].double()  # a prompt's own stand before
            total = 0.0
            for place in range(len(context), len(whole)):
                before = logits[place - 1]
                total += float(before[whole[place]]) - math.log(sum(math.exp(value) for value in before.tolist()))
            sums.append(total)
        each = [total / len(choice) for total, choice in zip(sums, CHOICES, strict=True)]
        found.append([int(values.index(max(values)) == row["answer"]) for values in (sums, each)])
    plain, normed = zip(*found, strict=True)
    return list(plain), list(normed)


def scored(model, tokenizer, names, folder, **keys):
    return lm_eval.evaluate(model.eval(), tokenizer, names, folder, batch_size=4, note=lambda *said: None, **keys)


def test_accuracies_and_items_are_those_of_a_bare_loop(tiny_llama, tmp_path):
    rows = written(tmp_path)
    model, tokenizer = opened(tiny_llama, tmp_path)
    plain, normed = by_hand(model, tokenizer, rows)
    always_one = [[int(row["answer"] == choice) for row in rows] for choice in range(len(CHOICES))]
    assert plain != normed  # each is told from the other
    assert plain not in always_one
    assert normed not in always_one
    found = scored(model, tokenizer, ["mine"], tmp_path)["scores"]
    assert found.keys() == {"mine_acc", "mine_acc_norm"}
    for name, items in (("mine_acc", plain), ("mine_acc_norm", normed)):
        assert found[name]["items"] == items
        assert found[name]["value"] == pytest.approx(sum(items) / len(items))
    assert 0 < found["mine_acc"]["value"] < 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_virtual_tokens_of_a_prompt_are_not_taken_for_the_items(tiny_llama, tmp_path):
    import peft

    rows = written(tmp_path)
    model, tokenizer = opened(tiny_llama, tmp_path)
    prompted = peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    plain, normed = by_hand(prompted, tokenizer, rows)
    found = scored(prompted, tokenizer, ["mine"], tmp_path)["scores"]
    assert (found["mine_acc"]["items"], found["mine_acc_norm"]["items"]) == (plain, normed)


def test_the_model_and_its_tokenizer_stay_as_they_are(tiny_llama, tmp_path):
    written(tmp_path)
    model, tokenizer = opened(tiny_llama, tmp_path)
    model.config.tie_word_embeddings = True  # though they differ, as in a compressed model
    tokenizer.pad_token = None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scored(model, tokenizer, ["mine"], tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert tokenizer.pad_token is None
    assert "tie_weights" not in vars(model)


def test_generated_answers_are_scored_too(tiny_llama, tmp_path):
    written(tmp_path, "said", metrics=["exact_match"])
    text = (tmp_path / "said.yaml").read_text().replace("multiple_choice", "generate_until")
    text = text.replace(f"doc_to_choice: {json.dumps(CHOICES)}", "generation_kwargs: {until: [' '], max_gen_toks: 2}")
    (tmp_path / "said.yaml").write_text(text.replace("doc_to_target: answer", 'doc_to_target: "{{answer}}"'))
    found = scored(*opened(tiny_llama, tmp_path), ["said"], tmp_path)["scores"]
    assert found["said_exact_match"]["items"] == [0.0] * 23


def test_a_score_that_is_no_mean_of_items_has_none(tiny_llama, tmp_path):
    written(tmp_path, metrics=["acc", "mcc"])
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        text.replace("metric: mcc\n    aggregation: mean", "metric: mcc\n    aggregation: matthews_corrcoef")
    )
    found = scored(*opened(tiny_llama, tmp_path), ["mine"], tmp_path)["scores"]
    assert len(found["mine_acc"]["items"]) == 23
    assert found["mine_mcc"]["items"] == []


def test_the_items_of_a_group_are_those_of_its_tasks_one_after_the_other(tiny_llama, tmp_path, monkeypatch):
    one, two = tmp_path / "tasks/ours/one", tmp_path / "tasks/ours/two"
    for folder in (one, two):
        folder.mkdir(parents=True)
        written(folder, folder.name, items=5 + len(folder.name))
        text = (
            (folder / f"{folder.name}.yaml")
            .read_text()
            .replace(f"test: {folder.name}", f"test: {folder}/{folder.name}")
        )
        (folder / f"{folder.name}.yaml").write_text(text)
    (one / "both.yaml").write_text(
        "group: both\ntask: [one, two]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]"
    )
    monkeypatch.setattr(tasks, "_root", lambda: tmp_path / "tasks")
    tasks._folders.cache_clear()
    model, tokenizer = opened(tiny_llama, tmp_path)
    try:
        both = scored(model, tokenizer, ["both"], tmp_path)["scores"]
        alone = scored(model, tokenizer, ["one", "two"], tmp_path)["scores"]
    finally:
        tasks._folders.cache_clear()
    assert both.keys() == {"both_acc"}
    assert alone.keys() == {"one_acc", "one_acc_norm", "two_acc", "two_acc_norm"}
    assert both["both_acc"]["items"] == alone["one_acc"]["items"] + alone["two_acc"]["items"]


def test_a_score_of_another_direction_is_left_out_and_noted(tiny_llama, tmp_path):
    written(tmp_path)
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text[: text.rindex("true")] + "false")
    said = []
    model, tokenizer = opened(tiny_llama, tmp_path)
    found = lm_eval.evaluate(
        model.eval(), tokenizer, ["mine"], tmp_path, batch_size=4, note=lambda reason, name: said.append((name, reason))
    )
    assert found["scores"].keys() == {"mine_acc"}
    assert [name for name, _ in said] == ["lm_eval_mine_acc_norm"]


def test_a_trained_and_a_compressed_model_are_scored_after_their_own_evaluation(tiny_llama, tmp_path):
    written(tmp_path)
    status, reason, records = jobs.run(
        "full >> int4", tiny_llama, tmp_path, task=jobs.prose(tmp_path), measure={"quality": "lm-eval:mine"}
    )
    assert status == "ok", reason
    for record in records:
        assert record["quality"]["metrics"].keys() >= {"bits_per_byte"}
        assert len(record["lm_eval"]["scores"]["mine_acc"]["items"]) == 23
        assert record["seconds"]["lm_eval"] > 0


@pytest.mark.parametrize("text", ["lora(r=2)", "prompt(4)", "full >> torch_int8_dynamic", "full >> sparse_2_4"])
def test_a_model_is_scored_in_the_form_that_methods_left_it_in(text, tiny_llama, tmp_path):
    written(tmp_path)
    status, reason, records = jobs.run(
        text, tiny_llama, tmp_path, task=jobs.prose(tmp_path), measure={"quality": "lm-eval:mine"}, budget={"steps": 2}
    )
    assert status == "ok", reason
    assert records[-1]["lm_eval"]["scores"].keys() == {"mine_acc", "mine_acc_norm"}


def test_several_models_together_are_not_scored(tiny_llama, tmp_path):
    written(tmp_path)
    status, _, (record,) = jobs.run(
        "full + ensemble(2)",
        tiny_llama,
        tmp_path,
        task=jobs.prose(tmp_path),
        measure={"quality": "lm-eval:mine"},
        absent=True,
    )
    assert status == "ok"
    assert record["absent"] == {"lm_eval": "LmEvalError: lm-eval takes one model of transformers, and this is Ensemble"}


def test_data_that_are_nowhere_are_the_reason_of_an_absent_score(tiny_llama, tmp_path):
    written(tmp_path)
    (tmp_path / "mine.jsonl").unlink()
    status, _, (record,) = jobs.run(
        "full", tiny_llama, tmp_path, task=jobs.prose(tmp_path), measure={"quality": "lm-eval:mine"}, absent=True
    )
    assert status == "ok"
    assert "lm_eval" not in record
    assert "the data of mine are neither on this machine nor reachable" in record["absent"]["lm_eval"]
    assert record["quality"]["metrics"]
