"""What a model forgets of a task that it knew: asked for, scored, counted and shown."""

import pytest
import torch

from bench.compare.compare import compare
from bench.metrics.registry import metric
from bench.models.registry import open_model
from bench.plan import plan
from bench.stage import checkpoint
from bench.suite.suite import SuiteError, of
from bench.tasks.registry import open_task
from bench.testing import jobs
from reports import render_comparisons
from tests import synthetic
from tests.subjects import HERE


@pytest.fixture
def known(tmp_path):
    """A task that the model is not trained on."""
    folder = tmp_path / "known"
    folder.mkdir()
    return jobs.prose(folder, 60)


def nats(model, tokenizer, texts):
    """The mean cross entropy of a token, one text after the other; each is shorter than a block."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            likely = model.eval()(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(likely.gather(1, ids[0, 1:, None]).sum())
        tokens += ids.shape[1] - 1
    return total / tokens


def test_forgetting_is_what_one_counts_by_hand(tiny_llama, tmp_path, known):
    keys = {"task": jobs.prose(tmp_path), "measure": {"retain": known}, "budget": {"max_length": 128}}
    status, reason, records = jobs.run("full(lr=0.01) >> full(share=0.5)", tiny_llama, tmp_path, **keys)
    assert (status, reason) == ("ok", "")
    texts = open_task(known, tmp_path).texts("test")
    arrived, tokenizer = open_model(str(tiny_llama), tmp_path).load("AutoModelForCausalLM", {})
    before = nats(arrived, tokenizer, texts)
    after = [nats(*checkpoint.load(tmp_path / f"checkpoints/node{depth}.pt"), texts) for depth in (0, 1)]
    assert metric("forgetting").read(records[:1]) == pytest.approx(after[0] - before, abs=1e-5)
    assert metric("forgetting").read(records) == pytest.approx(after[1] - before, abs=1e-5)
    assert abs(after[1] - before) > 0.01, "nothing to see"
    assert "before" not in records[1]["retained"]


def test_what_the_loading_for_a_method_costs_is_in_it(tiny_llama, tmp_path, known):
    # nf4 quantizes while loading: the model as it arrived is the one before that.
    keys = {"task": jobs.prose(tmp_path), "measure": {"retain": known}, "budget": {"max_length": 128}}
    status, reason, records = jobs.run("nf4", tiny_llama, tmp_path, **keys)
    assert (status, reason) == ("ok", "")
    arrived, tokenizer = open_model(str(tiny_llama), tmp_path).load("AutoModelForCausalLM", {})
    retained = records[0]["retained"]
    here = nats(arrived, tokenizer, open_task(known, tmp_path).texts("test"))
    assert retained["before"]["extra"]["nats"] / retained["before"]["extra"]["tokens"] == pytest.approx(here, abs=1e-5)
    assert metric("forgetting").read(records) != 0


def test_it_changes_nothing_else(tiny_llama, tmp_path, known):
    task = jobs.prose(tmp_path)
    _, _, (plain,) = jobs.run("lora(r=2)", tiny_llama, tmp_path, task=task)
    _, _, (asked,) = jobs.run("lora(r=2)", tiny_llama, tmp_path, task=task, measure={"retain": known})
    assert asked["training"]["losses"] == plain["training"]["losses"]
    assert asked["quality"] == plain["quality"]
    assert asked.keys() - plain.keys() == {"retained"}
    assert metric("forgetting").read([plain]) is None


def record(before, after):
    scores = {"before": before, "after": after}
    return {"retained": {when: {"extra": {"nats": nats, "tokens": 4}} for when, nats in scores.items()}}


def test_recipes_are_compared_by_it_and_the_report_has_it():
    found = synthetic.records({"full": synthetic.Method("full"), "lora": synthetic.Method("lora")})
    for node in found.nodes.values():
        node |= record(8.0, 10.0 + node["seed"] - 2.0 * (node["recipe"] == "lora") * (1 + 0.01 * node["seed"]))
    full, lora = sorted(compare(found)[0].rows, key=lambda row: row.name)
    assert full.figures["forgetting"].by_seed == {0: 0.5, 1: 0.75, 2: 1.0}
    seen = lora.changes["forgetting"]
    assert (seen.kind, seen.covers, seen.verdict) == ("difference", "seeds", "better")
    assert seen.value == pytest.approx(-0.505)
    text = render_comparisons(compare(found), "md")
    assert "Forgetting" in text
    assert "−0.505 nats" in text


def test_a_loss_that_is_not_finite_gives_no_figure():
    assert metric("forgetting").read([record(2.0, 8.0)]) == 1.5
    # A record has no other way to write such a number.
    assert metric("forgetting").read([record(2.0, None)]) is None
    assert metric("forgetting").read([record(2.0, 3.0), {}]) is None
    assert metric("forgetting").read([]) is None


def made(tiny_llama, folder, retain, task=None):
    measure = {} if retain is None else {"retain": retain}
    task = (task or jobs.prose(folder)).model_dump(exclude_unset=True)
    table = {"model": str(tiny_llama), "task": task, "recipes": {"full": "full"}, "measure": measure}
    return plan.make(of(table), folder, HERE)


def test_the_identity_has_the_retained_texts(tiny_llama, tmp_path, known):
    spec = known.model_dump(exclude_unset=True)
    plain = set(made(tiny_llama, tmp_path, None).nodes)
    asked = set(made(tiny_llama, tmp_path, spec).nodes)
    assert plain != asked
    assert set(made(tiny_llama, tmp_path, {**spec, "name": "another name"}).nodes) == asked
    with (tmp_path / "known/prose.jsonl").open("a") as stream:
        stream.write('\n{"text": "another text"}')
    assert set(made(tiny_llama, tmp_path, spec).nodes) not in (plain, asked)


def test_only_what_needs_no_new_head(tiny_llama, tmp_path, known):
    for retain, task in (("stdlib-topics", None), (known.model_dump(exclude_unset=True), jobs.table(tmp_path))):
        with pytest.raises(SuiteError, match=r"measure\.retain: .* is a classification task, whose head is new"):
            made(tiny_llama, tmp_path, retain, task)


@pytest.mark.parametrize(
    ("retain", "says"),
    [
        ("stdlib-cod", r"measure.retain: unknown task `stdlib-cod`; did you mean `stdlib-code`?"),
        ({"kind": "causal_lm", "data": "no.txt"}, "measure.retain: "),
        ({"kind": "causal_lm", "dat": "no.txt"}, "measure.retain.dat: unknown key; did you mean `data`?"),
        (3, "measure.retain: "),
    ],
)
def test_what_is_wrong_is_named(tiny_llama, tmp_path, retain, says):
    with pytest.raises(SuiteError) as caught:
        made(tiny_llama, tmp_path, retain)
    assert says in str(caught.value)
