"""torchao's Wanda: what it does with a layer whose inputs are easy to have, and that it leaves a plain model behind."""

import itertools

import pytest
import torch

from bench.testing import jobs
from tests.transforms import applied, refusals, refuted

RECIPE = "torchao_wanda(0.5, samples=32)"
LOWEST = "each layer's lowest |W|·‖X‖² are zero"


def test_in_each_layer_those_go_whose_size_times_the_inputs_squared_norm_is_lowest(tiny_bert, tmp_path):
    original, done = applied("torchao_wanda(0.3, samples=32)", tiny_bert, tmp_path)
    squares = [torch.zeros(32), torch.zeros(32)]
    for batch in itertools.islice(done.batches("train"), 2):
        with torch.no_grad():
            states = original(**batch.inputs, output_hidden_states=True).hidden_states
        for item, length in enumerate(batch.lengths):
            for block in (0, 1):  # the second sees what the first gave before it was pruned
                for token in range(length):
                    squares[block] += states[block][item, token] ** 2
    for block, seen in enumerate(squares):
        was, now = (
            model.bert.encoder.layer[block].attention.self.query.weight.detach() for model in (original, done.model)
        )
        scores = [(float(abs(weight)) * float(seen[column]), (row, column)) for row, values in enumerate(was)
                  for column, weight in enumerate(values)]  # fmt: skip
        going = {place for _, place in sorted(scores)[: int(0.3 * len(scores))]}
        assert {tuple(place) for place in (now == 0).nonzero().tolist()} == going


def test_what_torchao_put_on_the_layers_is_off(tiny_llama, tmp_path):
    original, done = applied(RECIPE, tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    were, are = (
        {
            name: (type(module), bool(module._forward_hooks), hasattr(module, "qconfig"))
            for name, module in model.named_modules()
        }
        for model in (original, done.model)
    )
    assert were == are
    assert original.state_dict().keys() == done.model.state_dict().keys()


def test_zeros_of_each_row_alone_are_not_its_own(tiny_bert, tmp_path):
    assert LOWEST in refuted("wanda(0.5, samples=32)", tiny_bert, tmp_path, proven=RECIPE)


def test_padding_that_counts_is_found_out(tiny_bert, tmp_path, monkeypatch):
    from methods import _statistics

    batches = _statistics.batches

    def padded(work, calibration):
        for batch in batches(work, calibration):
            yield type(batch)(batch.inputs, batch.labels, (16,) * batch.samples, batch.terms, batch.items)

    monkeypatch.setattr(_statistics, "batches", padded)
    assert LOWEST in refuted(RECIPE, tiny_bert, tmp_path)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_llama"])
def test_a_checkpoint_has_its_zeros_and_a_later_training_keeps_them(model, request, tmp_path):
    task = jobs.prose(tmp_path) if model == "tiny_llama" else None
    status, reason, records = jobs.run(
        f"{RECIPE} >> full", request.getfixturevalue(model), tmp_path, task=task, budget={"steps": 2}
    )
    assert status == "ok", reason
    assert records[1]["parameters"]["nonzero"] < records[1]["parameters"]["total"]


def test_more_may_be_pruned_by_itself_and_not_by_another(tiny_bert, tmp_path):
    assert not refusals("torchao_wanda(0.3) >> full >> torchao_wanda(0.6)", tiny_bert, tmp_path)
    assert refusals("wanda(0.3) >> torchao_wanda(0.6)", tiny_bert, tmp_path)
