"""Wanda against its formula, written out for the layers whose inputs are easy to have."""

import itertools

import pytest
import torch

from bench.models.architecture import block_linears
from tests import jobs
from tests.transforms import applied, refusals


def real_rows(hidden, batch):
    return hidden[batch.inputs["attention_mask"].bool()]


def expected(weight, inputs, amount):
    """The mask that ``|W| · ‖X‖₂`` gives, one row after the other."""
    norms = inputs.norm(dim=0)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for row, values in enumerate(weight.abs() * norms):
        mask[row, values.sort().indices[: round(amount * len(values))]] = False
    return mask


@pytest.mark.parametrize("amount", [0.5, 0.3])
def test_masks_of_both_blocks_are_the_formulas(amount, tiny_bert, tmp_path):
    original, done = applied(f"wanda({amount}, samples=32)", tiny_bert, tmp_path)
    batches = list(itertools.islice(done.batches("train"), 2))
    first, second = original.bert.encoder.layer
    with torch.no_grad():
        embedded = [original.bert.embeddings(b.inputs["input_ids"], b.inputs.get("token_type_ids")) for b in batches]
        inputs = torch.cat([real_rows(hidden, batch) for hidden, batch in zip(embedded, batches, strict=True)])
        # The second block sees what the first gives once that is pruned.
        states = [done.model(**b.inputs, output_hidden_states=True).hidden_states[1] for b in batches]
        later = torch.cat([real_rows(hidden, batch) for hidden, batch in zip(states, batches, strict=True)])
    for number, (block, seen) in enumerate([(first, inputs), (second, later)]):
        for name in ("query", "key", "value"):
            was = getattr(block.attention.self, name).weight
            now = getattr(done.model.bert.encoder.layer[number].attention.self, name).weight
            mask = expected(was, seen, amount)
            assert torch.equal(now, was * mask)


def test_padding_does_not_count(tiny_bert, tmp_path):
    """Longer padding, the same masks."""
    _, short = applied("wanda(0.5, samples=16)", tiny_bert, tmp_path)
    _, padded = applied("wanda(0.5, samples=16)", tiny_bert, tmp_path)
    assert short.probe.inputs["attention_mask"].min() == 0  # there is some
    pad = short.task.batches

    def longer(*args, **keys):
        for batch in pad(*args, **keys):
            yield type(batch)(
                inputs={name: torch.nn.functional.pad(tensor, (0, 9)) for name, tensor in batch.inputs.items()},
                labels=batch.labels, lengths=batch.lengths, terms=batch.terms, items=batch.items,
            )  # fmt: skip

    from tests.transforms import work

    padded = work("wanda(0.5, samples=16)", tiny_bert, tmp_path)
    padded.task.batches = longer
    padded.stage.main.apply(padded)
    for ours, theirs in zip(block_linears(short.model).values(), block_linears(padded.model).values(), strict=True):
        assert torch.equal(ours.weight == 0, theirs.weight == 0)


def test_it_differs_from_magnitude_in_each_row(tiny_llama, tmp_path):
    _, by_activation = applied("wanda(0.5, samples=32)", tiny_llama, tmp_path)
    _, by_size = applied('magnitude(0.5, "layer")', tiny_llama, tmp_path)
    rows = 0
    for one, other in zip(
        block_linears(by_activation.model).values(), block_linears(by_size.model).values(), strict=True
    ):
        assert ((one.weight == 0).sum(1) == one.in_features // 2).all()
        rows += int(((one.weight == 0) != (other.weight == 0)).any(1).sum())
    assert rows > 0


def test_it_works_on_language_models(tiny_llama, tmp_path):
    status, reason, _ = jobs.run(
        "wanda(0.5, samples=16) >> full", tiny_llama, tmp_path, task=jobs.prose(tmp_path), budget={"steps": 2}
    )
    assert status == "ok", reason


def test_a_sparse_model_is_no_start_for_another_pattern(tiny_bert, tmp_path):
    assert refusals("sparse_2_4 >> wanda(0.6)", tiny_bert, tmp_path)
    assert not refusals("wanda(0.3) >> full >> wanda(0.6)", tiny_bert, tmp_path)
