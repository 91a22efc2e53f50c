"""Near misses: what was done almost right, and the claim that says so."""

import copy

import pytest
import torch
from torch import nn

from bench.models.architecture import attention, block_linears, blocks, feed_forward
from bench.testing import jobs
from methods import _quantized, _statistics, _structured
from methods.compression.pruning import prune_heads
from methods.compression.quantization._shared import packing
from tests.transforms import refuted, work

TASKS = {"tiny_bert": jobs.table, "tiny_llama": jobs.prose}


# -- one method done, another meant ----------------------------------------------------------------------------------

MEANT = [
    ("int4(group_size=32)", "int4(group_size=64)", "each layer multiplies by its weights rounded"),
    ("gptq(samples=16, damping=1.0)", "gptq(samples=16)", "each weight is the nearest to what"),
    ("gptq(samples=64)", "gptq(samples=16)", "each weight is the nearest to what"),
    ("awq(samples=64)", "awq(samples=16)", "inputs are divided by powers of their mean magnitudes"),
    ("magnitude(0.5, 'layer')", "magnitude(0.5)", "the smallest are zero"),
    ("magnitude(0.5)", "magnitude(0.5, 'layer')", "0.5 of each layer's weights are zero"),
    ("magnitude(0.4998)", "magnitude(0.5)", "0.5 of the weights are zero, to the nearest whole weight"),
    ("wanda(0.5, samples=64)", "wanda(0.5, samples=16)", "each row's lowest |W|·‖X‖ are zero"),
    ("wanda(0.45, samples=16)", "wanda(0.5, samples=16)", "0.5 of the weights in each row are zero"),
    ("sparsegpt(0.5, samples=16, damp=1.0)", "sparsegpt(0.5, samples=16)", "each weight that is kept is what"),
    ("sparsegpt(0.499, samples=16)", "sparsegpt(0.5, samples=16)", "0.5 of each layer's weights are zero"),
    ("sparse_2_4", 'sparse_2_4("wanda", samples=16)', "each group's lowest two by wanda are zero"),
    ("sparse_2_4", 'sparse_2_4("sparsegpt", samples=16)', "each weight that is kept is what"),
    ('sparse_2_4("wanda", samples=16)', "sparse_2_4", "each group's lowest two by magnitude are zero"),
    ("prune_ffn(0.5, 'taylor')", "prune_ffn(0.5)", "those are left that score highest by the norm"),
    ("prune_ffn(0.5)", "prune_ffn(0.5, 'taylor')", "those are left that score highest by |weight"),
    ("prune_ffn(0.5)", "prune_ffn(0.5, 'random')", "those are left that score highest by what was drawn"),
    ("prune_ffn(0.45)", "prune_ffn(0.5)", "every shape is the one it should be"),
    ("prune_hidden(0.25, 'taylor')", "prune_hidden(0.25)", "those are left that score highest by the norm"),
    ("prune_hidden(0.25)", "prune_hidden(0.25, 'taylor')", "those are left that score highest by |weight"),
    ("prune_hidden(0.25)", "prune_hidden(0.25, 'random')", "those are left that score highest by what was drawn"),
    ("low_rank(4)", "low_rank(5)", "the factors are of the rank that was asked for"),
    ("low_rank(energy=0.5)", "low_rank(energy=0.6)", "the factors are of the rank that was asked for"),
    ("half('bf16')", "half('fp16')", "every weight is fp16"),
]


@pytest.mark.parametrize(("done", "meant", "said"), MEANT)
@pytest.mark.parametrize("fixture", TASKS)
def test_another_method_than_what_was_meant(done, meant, said, fixture, request, tmp_path):
    task = TASKS[fixture](tmp_path)
    found = refuted(done, request.getfixturevalue(fixture), tmp_path, proven=meant, task=task)
    assert any(claim.startswith(said) for claim in found), found
    assert not refuted(meant, request.getfixturevalue(fixture), tmp_path, task=task)


@pytest.mark.parametrize(
    ("done", "meant", "said"),
    [
        ('drop_layers(1, "similarity", samples=16)', "drop_layers(1)", "those are gone that are the last"),
        ("drop_layers(1)", 'drop_layers(1, "similarity", samples=16)', "those are gone that change their input least"),
        (
            'drop_layers(1, "similarity", samples=16)',
            'drop_layers(1, "every_other")',
            "those are gone that are every other",
        ),
    ],
)
def test_other_blocks_than_those_that_were_meant(done, meant, said, tiny_llama, tmp_path):
    def idle(done):  # the first block passes its input on
        blocks(done.model)[0].self_attn.o_proj.weight.data.zero_()
        blocks(done.model)[0].mlp.down_proj.weight.data.zero_()

    found = refuted(done, tiny_llama, tmp_path, proven=meant, first=idle, task=jobs.prose(tmp_path))
    assert [claim for claim in found if claim.startswith(said)] == found != []


@pytest.mark.parametrize("importance", ["l2", "taylor"])
@pytest.mark.parametrize("fixture", TASKS)
def test_the_most_important_heads(importance, fixture, request, tmp_path, monkeypatch):
    scorer = prune_heads._scorer
    monkeypatch.setattr(prune_heads, "_scorer", lambda *given: lambda weight: -scorer(*given)(weight))
    text = f"prune_heads(0.5, '{importance}')"
    (found,) = refuted(text, request.getfixturevalue(fixture), tmp_path, task=TASKS[fixture](tmp_path))
    assert found.startswith("those are left that score highest by ")


@pytest.mark.parametrize("text", ["prune_ffn(0.5)", "prune_ffn(0.5, 'taylor')", "prune_hidden(0.25)"])
def test_the_most_important_neurons_and_channels(text, tiny_bert, tmp_path, monkeypatch):
    ranking = _structured.ranking

    def turned(*given):
        rank = ranking(*given)
        return lambda group: -rank(group)

    monkeypatch.setattr(_structured, "ranking", turned)
    (found,) = refuted(text, tiny_bert, tmp_path)
    assert found.startswith("those are left that score highest by ")


CALIBRATED = [
    ("gptq(samples=16)", "each weight is the nearest to what"),
    ("awq(samples=16)", "inputs are divided by powers of their mean magnitudes"),
    ("wanda(0.5, samples=16)", "each row's lowest |W|·‖X‖ are zero"),
    ("sparsegpt(0.5, samples=16)", "each weight that is kept is what"),
    ('sparse_2_4("wanda", samples=16)', "each group's lowest two by wanda are zero"),
    ("prune_ffn(0.5, 'taylor')", "those are left that score highest by |weight"),
    ("prune_hidden(0.25, 'taylor')", "those are left that score highest by |weight"),
    ("torchao_wanda(0.5, samples=16)", "each layer's lowest |W|·‖X‖² are zero"),
]


@pytest.mark.parametrize(("text", "said"), CALIBRATED)
def test_other_items_than_those_of_the_training_split(text, said, tiny_bert, tmp_path, monkeypatch):
    batches = _statistics.batches

    def tested(work, samples):
        train = work.task.batches
        work.task.batches = lambda split, *given, **options: train("test", *given, **options)
        try:
            yield from batches(work, samples)
        finally:
            del work.task.batches

    monkeypatch.setattr(_statistics, "batches", tested)
    found = refuted(text, tiny_bert, tmp_path)
    assert any(claim.startswith(said) for claim in found), found


@pytest.mark.parametrize(("text", "said"), CALIBRATED[:5])
def test_padding_that_counts(text, said, tiny_bert, tmp_path, monkeypatch):
    observe = _statistics.observe

    def padded(work, modules, samples, see):
        """Any mask is one of other sizes than what is seen, so nothing is taken out."""
        outputs = work.outputs
        bools = torch.Tensor.bool
        monkeypatch.setattr(torch.Tensor, "bool", lambda tensor: bools(tensor)[:, :0])
        work.outputs = outputs
        try:
            observe(work, modules, samples, see)
        finally:
            monkeypatch.setattr(torch.Tensor, "bool", bools)

    monkeypatch.setattr(_statistics, "observe", padded)
    found = refuted(text, tiny_bert, tmp_path)
    assert any(claim.startswith(said) for claim in found), found


# -- quantized layers ------------------------------------------------------------------------------------------------

QUANTIZED = [
    "torch_int8_dynamic", "bnb_int8", "nf4", "fp4(double_quant=False)", 'nf4(compute_dtype="bf16")', "int4", "torchao_int8_weight_only",
    "torchao_int8_dynamic", "torchao_int4_weight_only(group_size=32)", "gptq(samples=16)", "awq(samples=16)",
]  # fmt: skip


def quantized(done):
    """The layers, by name."""
    kinds = {"PackedLinear", "Linear4bit", "Linear8bitLt", "BFloat16Linear"}
    return {
        name: module
        for name, module in done.model.named_modules()
        if type(module).__name__ in kinds
        or isinstance(module, torch.ao.nn.quantized.dynamic.Linear)
        or (hasattr(module, "weight") and type(module.weight.data).__module__.startswith("torchao"))
    }


def last(done):
    return list(quantized(done).values())[-1]


@pytest.mark.parametrize("text", QUANTIZED)
@pytest.mark.parametrize("factor", [0, 2])
def test_a_bias_that_is_dropped_or_doubled(text, factor, tiny_bert, tmp_path):
    def spoil(done):
        layer = last(done)
        if callable(layer.bias):
            layer.set_weight_bias(layer.weight(), layer.bias() * 2 if factor else None)
        else:
            layer.bias = nn.Parameter(layer.bias * 2) if factor else None

    found = refuted(text, tiny_bert, tmp_path, spoil)
    assert found[0] == "each of them adds the bias that it had, once", found


@pytest.mark.parametrize("text", QUANTIZED)
def test_a_bias_that_is_added_twice(text, tiny_bert, tmp_path):
    def spoil(done):
        layer = last(done)
        bias = layer.bias() if callable(layer.bias) else layer.bias
        layer.register_forward_hook(lambda layer, args, output: output + bias)

    found = refuted(text, tiny_bert, tmp_path, spoil)
    assert "each of them adds the bias that it had, once" in found


MULTIPLIES = "each layer multiplies by its weights"


@pytest.mark.parametrize("text", QUANTIZED)
def test_a_layer_of_another_block(text, tiny_bert, tmp_path):
    """Packed as it should be; but the weights are those of the block before."""

    def spoil(done):
        found = quantized(done)
        for name in [name for name in found if "layer.1.attention.self.key" in name]:
            other = copy.deepcopy(found[name.replace("layer.1", "layer.0")])
            if callable(other.bias):
                other.set_weight_bias(other.weight(), found[name].bias())
            else:
                other.bias = found[name].bias
            done.model.set_submodule(name, other)

    found = refuted(text, tiny_bert, tmp_path, spoil)
    said = {"gptq": "each weight is the nearest to what", "awq": "each weight is rounded to the nearest after"}
    assert any(claim.startswith(said.get(text.partition("(")[0], MULTIPLIES)) for claim in found), found


@pytest.mark.parametrize("text", QUANTIZED)
def test_what_is_not_quantized_is_as_it_was(text, tiny_bert, tmp_path):
    def spoil(done):
        done.model.bert.embeddings.LayerNorm.weight.data.mul_(1.001)

    assert refuted(text, tiny_bert, tmp_path, spoil)[0] == "nothing else changed"


@pytest.mark.parametrize("text", ["torch_int8_dynamic", "int4"])
def test_a_head_that_is_quantized_too(text, tiny_bert, tmp_path):
    def spoil(done):
        done.model.bert.pooler.dense = copy.deepcopy(next(iter(quantized(done).values())))

    assert refuted(text, tiny_bert, tmp_path, spoil)[0].startswith("all weight matrices of the blocks are ")


def asymmetric(done):
    layer = last(done)
    weight = layer.weight().dequantize()
    low, high = weight.amin(1), weight.amax(1)
    scale = ((high - low) / 255).double()
    zero = (-128 - low / scale).round().long()
    layer.set_weight_bias(torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8), layer.bias())


def seven_bits(done):
    layer = last(done)
    weight = layer.weight().dequantize()
    scale = (weight.abs().amax(1) / 63.5).double()
    layer.set_weight_bias(torch.quantize_per_channel(weight, scale, 0 * scale.long(), 0, torch.qint8), layer.bias())


def longer(done):
    last(done).weight.quant_state.absmax.mul_(1.01)


def neighbours(done):
    last(done).weight.data.bitwise_xor_(1)


ROUNDING = [
    ("torch_int8_dynamic", asymmetric),
    ("torch_int8_dynamic", seven_bits),
    ("nf4(double_quant=False)", longer),
    ("fp4(double_quant=False)", longer),
    ("nf4", neighbours),
    ("int4", lambda done: last(done).scale.mul_(1.01)),
    ("int4", lambda done: last(done).packed.copy_(last(done).packed.flip(0))),
    ("bnb_int8", lambda done: last(done).weight.SCB.mul_(1.005)),
    ("torchao_int8_weight_only", lambda done: last(done).weight.scale.mul_(1.002)),
    ("torchao_int8_dynamic", lambda done: last(done).weight.scale.mul_(1.002)),
    ("torchao_int4_weight_only(group_size=32)", lambda done: last(done).weight.scale_and_zero.mul_(1.01)),
]


@pytest.mark.parametrize(("text", "spoil"), ROUNDING)
def test_weights_that_are_rounded_otherwise(text, spoil, tiny_bert, tmp_path):
    found = refuted(text, tiny_bert, tmp_path, spoil)
    assert found
    assert found[0].startswith(MULTIPLIES), found


def test_layers_that_compute_in_another_type(tiny_bert, tmp_path):
    def spoil(done):
        for layer in quantized(done).values():
            layer.compute_dtype = torch.bfloat16

    assert "each of them multiplies in fp32" in refuted("nf4", tiny_bert, tmp_path, spoil)


def test_activations_are_rounded_by_the_step_that_it_says(tiny_bert, tmp_path):
    done = work("torchao_int8_weight_only", tiny_bert, tmp_path)
    before = done.snapshot()
    done.stage.main.apply(done)
    name = "torchao_int8_weight_only"
    assert _quantized.activations(before, done, name, gone=None, kept=1e-3).holds
    assert not _quantized.activations(before, done, name, gone=3e-3, kept=1e-2).holds
    done = work("torch_int8_dynamic", tiny_bert, tmp_path)
    before = done.snapshot()
    done.stage.main.apply(done)
    assert not _quantized.activations(before, done, "torch_int8_dynamic", gone=None, kept=1e-3).holds
    assert not _quantized.activations(before, done, "torch_int8_dynamic", gone=1e-3, kept=2e-3).holds


def plainly(done, name):
    """One layer rounded to the nearest, in the place of what made up for errors or was scaled."""
    layer = done.model.get_submodule(name)
    weight = done.state[done.stage.main.name][f"{name}.weight"]
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.bias = layer.bias
    scale = packing.steps(weight, 4, 128)
    codes = packing.nearest(weight, packing.spread(scale, 128, layer.in_features), 4)
    divisor = None if layer.divisor is None else torch.ones(layer.in_features)
    done.model.set_submodule(name, packing.PackedLinear(plain, codes, scale, bits=4, group_size=128, divisor=divisor))


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.1.attention.self.value"]
)
def test_one_layer_that_is_plainly_rounded(name, tiny_bert, tmp_path):
    assert refuted("gptq(samples=16)", tiny_bert, tmp_path, lambda done: plainly(done, name)) == [
        "on calibration data each layer errs less than plain rounding would",
        "each weight is the nearest to what the errors of those before it have made of it",
    ]


def test_one_layer_that_is_not_scaled(tiny_bert, tmp_path):
    def spoil(done):
        spread = {name: float(layer.divisor.log().std()) for name, layer in quantized(done).items()}
        plainly(done, max(spread, key=spread.get))

    assert refuted("awq(samples=16)", tiny_bert, tmp_path, spoil) == [
        "on calibration data none of 20 powers would leave a layer's outputs nearer",
    ]


# -- zeros -----------------------------------------------------------------------------------------------------------

MASKED = ["magnitude(0.5)", "wanda(0.5, samples=16)", "sparsegpt(0.5, samples=16)", "sparse_2_4"]


@pytest.mark.parametrize("text", MASKED)
def test_a_weight_that_is_kept_and_moved(text, tiny_bert, tmp_path):
    def spoil(done):
        list(block_linears(done.model).values())[3].weight.data.mul_(1.02)

    found = refuted(text, tiny_bert, tmp_path, spoil)
    said = "each weight that is kept is what" if "gpt" in text else "each weight is zero or what it was"
    assert [claim for claim in found if claim.startswith(said)] == found != []


@pytest.mark.parametrize("text", MASKED)
def test_zeros_in_the_wrong_rows(text, tiny_bert, tmp_path):
    def spoil(done):
        name, layer = list(block_linears(done.model).items())[3]
        was = done.state[done.stage.main.name][name]
        layer.weight.data.copy_(was * (layer.weight != 0).flip(0))

    found = refuted(text, tiny_bert, tmp_path, spoil)
    assert any(claim.endswith("are zero") or claim.startswith("each weight that is kept") for claim in found), found


def test_two_of_four_along_the_wrong_dimension(tiny_bert, tmp_path):
    def spoil(done):
        name, layer = list(block_linears(done.model).items())[3]
        was = done.state["sparse_2_4"][name]
        columns = was.T.reshape(-1, 4)
        kept = torch.ones_like(columns).scatter_(1, columns.abs().topk(2, largest=False).indices, 0.0)
        layer.weight.data.copy_(was * kept.view(was.T.shape).T)

    assert "each group of four weights has exactly two zeros" in refuted("sparse_2_4", tiny_bert, tmp_path, spoil)


@pytest.mark.parametrize("wrong", ["another", "more"])
def test_a_mask_that_is_kept_and_is_not_what_was_zero(wrong, tiny_bert, tmp_path, monkeypatch):
    from methods import _masks

    masks = _masks.masks

    def changed(training):
        return [
            (weight, mask.flip(0) if wrong == "another" else mask & (torch.rand(mask.shape) < 0.98))
            for weight, mask in masks(training)
        ]

    monkeypatch.setattr(_masks, "masks", changed)
    status, reason, _ = jobs.run("magnitude(0.5) >> full", tiny_bert, tmp_path, budget={"steps": 2})
    assert status == "invalid"
    assert "not so that the zeros were kept in training, and no weight was lost" in reason


# -- made smaller ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["prune_ffn(0.5)", "prune_heads(0.5)", "prune_hidden(0.25)"])
def test_units_that_are_not_whole(text, tiny_bert, tmp_path):
    def spoil(done):
        if "ffn" in text:
            layer = feed_forward(done.model)[1][1]
            layer.weight.data.copy_(layer.weight.flip(1))
        else:
            layer = attention(done.model)[1].output
            layer.weight.data.copy_(layer.weight.flip(1 if "heads" in text else 0))

    assert "what is left is what was there, whole and in order" in refuted(text, tiny_bert, tmp_path, spoil)


def test_what_was_not_to_be_cut_is_as_it_was(tiny_bert, tmp_path):
    def spoil(done):
        attention(done.model)[0].query.bias.data.zero_()

    assert refuted("prune_ffn(0.5)", tiny_bert, tmp_path, spoil) == ["what was not to be cut is as it was"]


def test_a_pooler_that_keeps_other_channels(tiny_bert, tmp_path):
    def spoil(done):
        pooler = done.model.bert.pooler.dense
        pooler.weight.data.copy_(pooler.weight.flip(0))

    assert refuted("prune_hidden(0.25)", tiny_bert, tmp_path, spoil) == [
        "those are left that score highest by the norm of their weights"
    ]


def unbalanced(done):
    down, up = done.model.get_submodule("bert.encoder.layer.1.output.dense")
    down.weight.data.mul_(2)
    up.weight.data.div_(2)


def whole(done):
    """One layer as it was, which would get smaller."""
    name = "bert.encoder.layer.1.output.dense"
    plain = nn.Linear(64, 32)
    plain.weight.data.copy_(done.state["low_rank"][name])
    plain.bias = done.model.get_submodule(name)[1].bias
    done.model.set_submodule(name, plain)


def other_end(done):
    name = "bert.encoder.layer.1.output.dense"
    left, singular, right = torch.linalg.svd(done.state["low_rank"][name], full_matrices=False)
    down, up = done.model.get_submodule(name)
    root = singular[-4:].sqrt()
    down.weight.data.copy_(root[:, None] * right[-4:])
    up.weight.data.copy_(left[:, -4:] * root)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unbalanced, "either factor has the roots of the singular values"),
        (whole, "those layers are factored that get smaller by it, and no others"),
        (other_end, "their product is off by the discarded singular values and no more"),
    ],
)
def test_factors_that_are_not_the_best(spoil, said, tiny_bert, tmp_path):
    assert said in refuted("low_rank(4)", tiny_bert, tmp_path, spoil)


# -- another form ----------------------------------------------------------------------------------------------------


def cut_off(done):
    for name, weight in done.model.named_parameters():
        if name in done.were:
            bits = done.were[name].view(torch.int32) & -65536
            weight.data.copy_(bits.view(torch.float32))


NEAREST = "every weight is the nearest bf16 to what it was"


def test_weights_that_are_cut_off_and_not_rounded(tiny_bert, tmp_path):
    def remember(done):
        done.were = {name: weight.detach().clone() for name, weight in done.model.named_parameters()}

    assert refuted("half", tiny_bert, tmp_path, cut_off, first=remember) == [NEAREST]


def test_half_by_way_of_another_half(tiny_bert, tmp_path):
    def spoil(done):
        for weight in done.model.parameters():
            weight.data.copy_(weight.bfloat16())

    found = refuted('half("fp16")', tiny_bert, tmp_path, spoil)
    assert found == ["every weight is the nearest fp16 to what it was"]


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.0.output.LayerNorm.bias"]
)
def test_one_tensor_that_is_a_little_larger(name, tiny_bert, tmp_path):
    def spoil(done):
        dict(done.model.named_parameters())[name].data.mul_(1.02)

    assert refuted("half", tiny_bert, tmp_path, spoil) == [NEAREST]


PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def merging(tiny, folder, spoil=lambda done: None, **lora):
    """What the evidence of a merge says does not hold; the adapter is one that changes something everywhere."""
    import peft

    from bench.recipe import recipe

    done = work("half", tiny, folder)
    torch.manual_seed(0)
    config = peft.LoraConfig(init_lora_weights=False, task_type="SEQ_CLS", **lora)
    done.model = peft.get_peft_model(done.model, config).eval()
    (stage,) = recipe.parse("lora >> merge").stages[1:]
    before = done.snapshot()
    stage.main.apply(done)
    with torch.no_grad():
        spoil(done)
    return [claim.text for claim in stage.main.evidence(before, done) if not claim.holds]


FOLDED = "each weight is what it was plus its update, once, for every adapter that there was"
PATH = "bert.encoder.layer.1.attention.self.query"


def left_out(done):
    weight = done.model.get_submodule(PATH).weight
    weight.copy_(done.state["merge"][f"base_model.model.{PATH}"].get_base_layer().weight)


def doubled(done):
    layer = done.state["merge"][f"base_model.model.{PATH}"]
    done.model.get_submodule(PATH).weight.add_(layer.get_delta_weight("default"))


def coarse(done):
    weight = done.model.get_submodule(PATH).weight
    weight.copy_(weight.bfloat16())


@PEFT_WARNS
@pytest.mark.parametrize("lora", [{"r": 2}, {"r": 2, "use_dora": True}, {"r": 4, "use_rslora": True, "bias": "all"}])
def test_a_merge_that_is_right(lora, tiny_bert, tmp_path):
    targets = ["query", "dense", "word_embeddings"] if lora == {"r": 2} else None
    assert merging(tiny_bert, tmp_path, target_modules=targets, **lora) == []


@PEFT_WARNS
@pytest.mark.parametrize("spoil", [left_out, doubled, coarse])
def test_an_update_that_is_left_out_doubled_or_coarse(spoil, tiny_bert, tmp_path):
    assert FOLDED in merging(tiny_bert, tmp_path, spoil, r=2)


@PEFT_WARNS
def test_a_merge_that_changes_something_else(tiny_bert, tmp_path):
    def spoil(done):
        done.model.bert.encoder.layer[0].output.dense.bias[0] += 1e-6

    assert merging(tiny_bert, tmp_path, spoil, r=2) == ["nothing else changed"]


def sparse(done):
    from methods.compression.export._shared.sparse_linear import SparseLinear

    return [module for module in done.model.modules() if isinstance(module, SparseLinear)]


HELD = "they hold what was not zero, where it was, and nothing else"
MULTIPLIED = "each of them multiplies by that, and adds its bias once"


def swap_columns(done):
    layer = sparse(done)[0]
    layer.columns[:2] = layer.columns[:2].flip(0)


def dense_again(done):
    layer = sparse(done)[0]
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.weight, plain.bias = nn.Parameter(layer.unpacked()), layer.bias
    name = next(name for name, module in done.model.named_modules() if module is layer)
    done.model.set_submodule(name, plain)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda done: sparse(done)[0].values.mul_(1 + 1e-5), HELD),
        (swap_columns, HELD),
        (
            lambda done: sparse(done)[0].register_forward_hook(lambda layer, args, output: output + layer.bias),
            MULTIPLIED,
        ),
        (lambda done: setattr(sparse(done)[0], "bias", None), "nothing else changed"),
        (dense_again, "each layer of which 0.5 or more is zero is sparse, and no other"),
    ],
)
def test_storage_that_loses_something(spoil, said, tiny_bert, tmp_path):
    def zeros(done):
        for layer in block_linears(done.model).values():
            layer.weight.data.mul_(torch.rand(layer.weight.shape) < 0.1)

    assert said in refuted("sparse_storage", tiny_bert, tmp_path, spoil, first=zeros)
    assert not refuted("sparse_storage", tiny_bert, tmp_path, first=zeros)
