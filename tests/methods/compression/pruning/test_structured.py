"""What really makes models smaller: shapes by formula, the same answers as a masked dense model, and reloading."""

import copy
import re

import pytest
import torch

from bench.measure import size
from bench.models import signature
from bench.models.architecture import attention, blocks
from tests import jobs
from tests.transforms import applied, logits, refusals, work

BERT = {"hidden": 32, "heads": 2, "layers": 2, "inner": 64}


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


def removed(text, model, folder, **keys):
    original, done = applied(text, model, folder, **keys)
    return weights(original) - weights(done.model)


# -- counts by hand ------------------------------------------------------------------------------------------------


def test_ffn_pruning_takes_rows_columns_and_biases(tiny_bert, tmp_path):
    neurons = BERT["inner"] // 2
    assert removed("prune_ffn(0.5)", tiny_bert, tmp_path) == BERT["layers"] * neurons * (2 * BERT["hidden"] + 1)


def test_head_pruning_takes_a_head_of_each_of_four_layers(tiny_bert, tmp_path):
    width = BERT["hidden"] // BERT["heads"]
    # Query, key and value with their biases; of the output layer the columns alone.
    assert removed("prune_heads(0.5)", tiny_bert, tmp_path) == BERT["layers"] * width * (3 * (32 + 1) + 32)


def test_groups_of_heads_go_with_their_keys(tiny_llama, tmp_path):
    original, done = applied("prune_heads(0.5)", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    for whole, cut in zip(attention(original), attention(done.model), strict=True):
        assert (cut.heads, cut.key_value_heads) == (whole.heads // 2, whole.key_value_heads // 2)
        assert cut.head_dim == whole.head_dim
        assert cut.query.out_features == whole.query.out_features // 2
        assert cut.key.out_features == whole.key.out_features // 2


def test_dropped_layers_are_gone_with_all_their_weights(tiny_llama, tmp_path):
    original, done = applied("drop_layers(1)", tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert weights(original) - weights(done.model) == weights(blocks(original)[-1])
    assert len(blocks(done.model)) == len(blocks(original)) - 1 == done.model.config.num_hidden_layers


def test_one_layer_has_to_stay(tiny_llama, tmp_path):
    assert any("2 here, 1 can be dropped" in reason for reason in refusals("drop_layers(2)", tiny_llama, tmp_path))


@pytest.mark.parametrize(
    "text", ["nf4 >> drop_layers(1)", "fp4 >> drop_layers(1) >> lora(r=2)", "bnb_int8 >> drop_layers(1) >> lora(r=2)"]
)
def test_packed_blocks_can_be_dropped_too(text, tiny_llama, tmp_path):
    assert refusals(text, tiny_llama, tmp_path) == ()
    status, reason, _ = jobs.run(text, tiny_llama, tmp_path)
    assert status == "ok", reason


def test_every_other_layer_goes_from_the_second_on(tiny_bert, tmp_path):
    original, done = applied('drop_layers(1, "every_other")', tiny_bert, tmp_path)
    for name, left in blocks(done.model)[0].state_dict().items():
        assert torch.equal(left, blocks(original)[0].state_dict()[name])


# -- the same answers as by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["prune_ffn(0.5)", "prune_heads(0.5)"])
def test_it_answers_as_the_dense_model_whose_cut_columns_are_at_nothing(tiny_bert, tmp_path, text):
    original, done = applied(text, tiny_bert, tmp_path)
    masked = copy.deepcopy(original)
    for dense, cut in zip(narrowing(masked, text), narrowing(done.model, text), strict=True):
        kept = {tuple(column.tolist()) for column in cut.weight.T}
        gone = [n for n, column in enumerate(dense.weight.T) if tuple(column.tolist()) not in kept]
        assert len(gone) == dense.in_features // 2
        with torch.no_grad():
            dense.weight[:, gone] = 0
    assert torch.allclose(logits(done.model, done), logits(masked, done), atol=1e-5)


def narrowing(model, text):
    """The layers that lose columns, one a block."""
    if text.startswith("prune_heads"):
        return [found.output for found in attention(model)]
    return [block.output.dense for block in blocks(model)]


def test_the_least_important_by_the_norm_of_its_weights_goes(tiny_bert, tmp_path):
    original, done = applied("prune_ffn(0.25)", tiny_bert, tmp_path)
    for dense, cut in zip(blocks(original), blocks(done.model), strict=True):
        rows, columns = dense.intermediate.dense.weight, dense.output.dense.weight.T
        norms = rows.square().sum(1) + columns.square().sum(1) + dense.intermediate.dense.bias.square()
        kept = norms.argsort()[BERT["inner"] // 4 :].sort().values
        assert torch.equal(cut.intermediate.dense.weight, rows[kept])


@pytest.mark.parametrize("idle", [0, 1])
def test_similarity_drops_the_block_that_changes_its_input_least(tiny_llama, tmp_path, idle):
    done = work('drop_layers(1, "similarity", samples=16)', tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    block = blocks(done.model)[idle]
    with torch.no_grad():  # its layers give nothing back, so it passes its input on
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    other = blocks(done.model)[1 - idle].mlp.down_proj.weight.clone()
    done.stage.main.apply(done)
    assert torch.equal(blocks(done.model)[0].mlp.down_proj.weight, other)


def test_low_rank_is_the_best_of_its_rank(tiny_bert, tmp_path):
    original, done = applied("low_rank(4)", tiny_bert, tmp_path)
    dense = original.get_submodule("bert.encoder.layer.0.intermediate.dense")
    down, up = done.model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    left, singular, right = torch.linalg.svd(dense.weight.double())
    best = left[:, :4] @ torch.diag(singular[:4]) @ right[:4]
    assert torch.allclose((up.weight @ down.weight).double(), best, atol=1e-5)
    assert (tuple(down.weight.shape), tuple(up.weight.shape)) == ((4, 32), (64, 4))
    assert torch.equal(up.bias, dense.bias)
    assert down.bias is None


def test_energy_is_the_share_of_squared_singular_values(tiny_bert, tmp_path):
    original, done = applied("low_rank(energy=0.5)", tiny_bert, tmp_path)
    factored = [name for name, module in done.model.named_modules() if type(module) is torch.nn.Sequential]
    assert factored
    for name in factored:
        squares = torch.linalg.svdvals(original.get_submodule(name).weight.double()).square()
        rank = done.model.get_submodule(name)[0].out_features
        assert squares[: rank - 1].sum() < 0.5 * squares.sum() <= squares[:rank].sum() + 1e-9


# -- what a user ships, and a decoder's cache ----------------------------------------------------------------------

SHIPPED = [
    "prune_ffn(0.5)", "prune_heads(0.5)", "prune_hidden(0.25)", "drop_layers(1)", "low_rank(4)", "magnitude(0.5)",
]  # fmt: skip


@pytest.mark.parametrize("text", SHIPPED)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_is_shipped_answers_the_same(text, kind, tiny_bert, tiny_llama, tmp_path):
    path = {"bert": tiny_bert, "llama": tiny_llama}[kind]
    task = jobs.table(tmp_path) if kind == "bert" else jobs.prose(tmp_path)
    assert not refusals(text, path, tmp_path)
    _, done = applied(text, path, tmp_path, task=task)
    folder = tmp_path / "shipped"
    folder.mkdir()
    size.on_disk(done.model, folder, [done.stage.main.save])
    pickles = [file for file in folder.iterdir() if file.suffix in (".pt", ".bin")]
    again = torch.load(pickles[0], weights_only=False) if pickles else type(done.model).from_pretrained(folder)
    assert torch.equal(logits(again.eval(), done), logits(done.model, done))


@pytest.mark.parametrize("text", SHIPPED)
def test_a_decoder_answers_with_its_cache_as_without(text, tiny_llama, tmp_path):
    assert not refusals(text, tiny_llama, tmp_path)
    _, done = applied(text, tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    ids = done.probe.inputs["input_ids"][:2, :4]
    model = done.model
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        name = signature.cache_name(model)
        outputs = model(input_ids=ids[:, :4], use_cache=True)
        cached = [outputs.logits[:, -1:].argmax(-1)]
        while len(cached) < 6:
            outputs = model(input_ids=cached[-1], use_cache=True, **{name: getattr(outputs, name)})
            cached.append(outputs.logits[:, -1:].argmax(-1))
    assert torch.equal(torch.cat(cached, 1), ids[:, 4:])


def test_a_rank_that_saves_nothing_is_refused(tiny_bert, tmp_path):
    (reason,) = refusals("low_rank(22)", tiny_bert, tmp_path)
    assert re.search("no layer gets smaller by a rank of 22; one of 32 × 64 does below 21", reason)
