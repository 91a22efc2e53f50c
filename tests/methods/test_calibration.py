"""What methods calibrate on: it is what was asked for, it is told, and it decides the result."""

import itertools

import pytest
import torch

from bench.machine import machine
from bench.models.architecture import block_linears
from bench.plan import plan
from bench.recipe import registry
from bench.suite.suite import of
from bench.testing import jobs
from methods._calibration import Calibrated, Calibration
from tests.transforms import applied, refusals, work

ALL = {
    "gptq": "gptq({})", "awq": "awq({})", "wanda": "wanda(0.5, {})", "sparsegpt": "sparsegpt(0.5, {})",
    "sparse_2_4": 'sparse_2_4("wanda", {})', "drop_layers": 'drop_layers(1, "similarity", {})', "torchao_wanda": "torchao_wanda(0.5, {})",
}  # fmt: skip


def file(folder, rows=40, name="some.csv"):
    (folder / name).write_text("\n".join(["text", *(f"copper {number} nile" for number in range(rows))]))
    return name


def test_all_that_calibrate_share_the_two_arguments():
    found = {name: cls for name, cls in registry.methods().items() if issubclass(cls, Calibrated)}
    assert found.keys() == {*ALL, "openvino"}
    assert {name: cls.samples for name, cls in found.items()} == {**dict.fromkeys(ALL, 128), "openvino": 300}


@pytest.mark.parametrize("name", ALL)
def test_it_looks_at_the_files_texts_alone(name, tiny_bert, tmp_path):
    text = ALL[name].format(f'data="{file(tmp_path)}", samples=24')
    done = work(text, tiny_bert, tmp_path)
    read = []
    forward = type(done.model).forward
    done.model.forward = lambda **inputs: (read.append(inputs["input_ids"]), forward(done.model, **inputs))[1]
    done.stage.main.apply(done)
    seen = {row for ids in read for row in done.tokenizer.batch_decode(ids, skip_special_tokens=True)}
    assert len(seen) == 32  # two batches of 16
    assert all(row.startswith("copper ") and row.endswith(" nile") for row in seen)
    assert done.calibration == {
        "name": "some.csv",
        "fingerprint": done.calibration["fingerprint"],
        "samples": 32,
        "items": 32,
        "tokens": sum(len(done.tokenizer(row)["input_ids"][:16]) for row in seen),
    }


@pytest.mark.parametrize("name", ALL)
def test_its_evidence_holds_on_the_file_and_not_on_other_data(name, tiny_bert, tmp_path):
    given = ALL[name].format(f'data="{file(tmp_path)}", samples=32')
    applied(given, tiny_bert, tmp_path)


def test_evidence_by_other_data_does_not_hold(tiny_bert, tmp_path):
    done = work(f'gptq(data="{file(tmp_path)}", samples=32)', tiny_bert, tmp_path)
    before = done.snapshot()
    done.stage.main.apply(done)
    by_train = work("gptq(samples=32)", tiny_bert, tmp_path).stage.main
    assert any(not claim.holds for claim in by_train.evidence(before, done))


def test_other_data_give_other_weights(tiny_bert, tmp_path):
    _, one = applied("wanda(0.5, samples=32)", tiny_bert, tmp_path)
    _, other = applied(f'wanda(0.5, data="{file(tmp_path)}", samples=32)', tiny_bert, tmp_path)
    pairs = zip(block_linears(one.model).values(), block_linears(other.model).values(), strict=True)
    assert any(not torch.equal(a.weight, b.weight) for a, b in pairs)


def test_by_default_it_is_the_tasks_training_items_as_ever(tiny_bert, tmp_path):
    done = work("wanda(0.5)", tiny_bert, tmp_path)
    ours = itertools.islice(Calibration(128).batches(done), 8)
    theirs = itertools.islice(done.batches("train"), 8)
    assert [batch.items for batch in ours] == [batch.items for batch in theirs]
    assert done.calibration["name"] == "data"
    assert done.calibration["samples"] == 128
    assert done.calibration["items"] == len(done.task.texts("train")) < 128  # those of an epoch, then some again


def test_a_registered_task_calibrates_too(tiny_llama, tmp_path):
    text = 'wanda(0.5, data="stdlib-topics", samples=16)'
    _, done = applied(text, tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert (done.calibration["name"], done.calibration["samples"]) == ("stdlib-topics", 16)


def test_it_is_in_the_record(tiny_bert, tmp_path):
    status, reason, (record,) = jobs.run(f'wanda(0.5, data="{file(tmp_path)}", samples=16)', tiny_bert, tmp_path)
    assert status == "ok", reason
    found = record["transform"]["calibration"]
    assert (found["name"], found["samples"], found["items"]) == ("some.csv", 16, 16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('data="som.csv"', "no such file; did you mean `some.csv`?"),
        ('data="stdlib-topic"', "`stdlib-topic` is no task; did you mean `stdlib-topics`?"),
        ('data="some.csv"', "samples: some.csv has 40 items, and 128 are asked for; lower it, or give more data"),
        ('data="words.csv"', "it has no column `text`"),
    ],
)
@pytest.mark.parametrize("name", ["gptq", "wanda", "drop_layers"])
def test_what_cannot_be_read_is_refused_at_planning(name, arguments, said, tiny_bert, tmp_path):
    file(tmp_path)
    (tmp_path / "words.csv").write_text("words\npear")
    (reason,) = refusals(ALL[name].format(arguments), tiny_bert, tmp_path)
    assert said in reason


def test_where_no_data_are_looked_at_none_are_asked_for(tiny_bert, tmp_path):
    assert not refusals('sparse_2_4("magnitude", data="none.csv")', tiny_bert, tmp_path)


def ids(text, model, folder):
    suite = of({"model": str(model), "task": jobs.table(folder), "recipes": {"one": text}})
    return list(plan.make(suite, folder, machine.look("cpu", 1)).nodes)


def test_another_content_of_the_file_is_another_stage(tiny_bert, tmp_path):
    text = f'wanda(0.5, data="{file(tmp_path)}", samples=32)'
    first = ids(text, tiny_bert, tmp_path)
    assert ids(text, tiny_bert, tmp_path) == first
    file(tmp_path, rows=41)
    assert ids(text, tiny_bert, tmp_path) != first
