from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.measure.flops import _counted, count


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 5))


def test_forward_of_an_mlp_by_hand() -> None:
    model, inputs = mlp(), torch.ones(3, 10)
    by_hand = 2 * 3 * 10 * 20 + 2 * 3 * 20 * 5
    assert count(lambda: model(inputs)) == by_hand
    with torch.no_grad():
        assert count(lambda: model(inputs)) == by_hand
    with torch.inference_mode():
        assert count(lambda: model(inputs)) == by_hand


def test_backward_of_an_mlp_by_hand() -> None:
    model, inputs = mlp(), torch.ones(3, 10)
    first, second = 2 * 3 * 10 * 20, 2 * 3 * 20 * 5
    # Each layer gives a gradient for its weight and one for its input, but the first input needs none.
    assert count(lambda: model(inputs).sum().backward()) == (first + second) + (first + 2 * second)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert count(lambda: model(inputs).sum().backward()) == (first + second) + second


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": torch.zeros(16, 16)}])
def test_attention_counts_forward_and_backward(options: dict[str, Any]) -> None:
    batch, heads, length, size = 2, 4, 16, 8
    query, key, value = (torch.ones(batch, heads, length, size, requires_grad=True) for _ in range(3))
    forward = 2 * (2 * batch * heads * length * length * size)  # QKᵀ, and its softmax times V

    def attention() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, **options)

    assert count(attention) == forward
    assert count(lambda: attention().sum().backward()) == 3 * forward
    with torch.inference_mode():
        assert count(attention) == forward


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_by_hand(attention: str) -> None:
    from transformers import BertConfig, BertModel

    layers, hidden, inner, batch, length = 2, 16, 48, 3, 7
    config = BertConfig(
        vocab_size=50,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=inner,
        attn_implementation=attention,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    ids = torch.ones(batch, length, dtype=torch.long)
    tokens = batch * length
    projections = 4 * 2 * tokens * hidden * hidden
    products = 2 * 2 * batch * length * length * hidden
    feed_forward = 2 * 2 * tokens * hidden * inner
    forward = layers * (projections + products + feed_forward)
    with torch.no_grad():
        assert count(lambda: model(input_ids=ids)) == forward
    # The embeddings want gradients, so every product has both of its backward ones.
    assert count(lambda: model(input_ids=ids).last_hidden_state.sum().backward()) == 3 * forward


def test_checkpointing_counts_what_is_computed_again() -> None:
    model, inputs = mlp(), torch.ones(3, 10, requires_grad=True)
    first, second = 2 * 3 * 10 * 20, 2 * 3 * 20 * 5
    assert count(lambda: model(inputs).sum().backward()) == 3 * (first + second)
    # torch stops computing again where the last saved tensor is there: the second layer's input.
    again = count(lambda: checkpoint(model, inputs, use_reentrant=False).sum().backward())
    assert again == 3 * (first + second) + first


def test_compiled_code_counts_as_eager() -> None:
    model = mlp()
    compilations = []

    def backend(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    inputs = torch.ones(3, 10)
    expected = count(lambda: model(inputs).sum().backward())
    assert count(lambda: compiled(inputs).sum().backward()) == expected
    assert compilations == []
    compiled(inputs)
    assert len(compilations) == 1
    assert count(lambda: compiled(inputs).sum().backward()) == expected


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
def test_dynamic_int8_is_not_free() -> None:
    from torch.ao.quantization import quantize_dynamic

    inputs = torch.ones(3, 7, 10)
    assert count(lambda: quantize_dynamic(mlp(), {nn.Linear})(inputs)) == 2 * 21 * (10 * 20 + 20 * 5)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bitsandbytes_is_not_free(kind: str, mode: str) -> None:
    import bitsandbytes as bnb

    layer = (
        bnb.nn.Linear4bit(64, 32, quant_type="nf4")
        if kind == "nf4"
        else bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False)
    ).to("cpu")
    layer.requires_grad_(False)
    inputs = torch.ones(3, 5, 64, requires_grad=mode == "train")
    forward = 2 * 15 * 64 * 32
    if mode == "train":  # frozen: a gradient for the input alone
        assert count(lambda: layer(inputs).sum().backward()) == 2 * forward
    else:
        layer.eval()
        with torch.no_grad():
            assert count(lambda: layer(inputs)) == forward


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao.*")
@pytest.mark.filterwarnings("ignore::FutureWarning:torchao.*")
@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_is_not_free(config: str) -> None:
    from torchao import quantization

    model = nn.Sequential(nn.Linear(64, 32))
    quantization.quantize_(model, getattr(quantization, config)())
    with torch.no_grad():
        assert count(lambda: model(torch.ones(3, 5, 64))) == 2 * 15 * 64 * 32


def test_function_runs_once() -> None:
    calls = []
    assert count(lambda: calls.append(1)) == 0
    assert calls == [1]


def test_nothing_is_allocated(caplog: pytest.LogCaptureFixture) -> None:
    batch, heads, length, size = 4, 8, 2**17, 64
    layer, inputs = nn.Linear(heads * size, 3 * heads * size), torch.zeros(1, 1, heads * size)

    def step() -> None:
        # 0.5 GB of activations a tensor, and 2.2 TB of scores.
        states = layer(inputs.expand(batch, length, -1).clone()).view(batch, length, 3, heads, size)
        query, key, value = states.transpose(1, 3).unbind(2)
        nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()

    attention = 2 * (2 * batch * heads * length * length * size)
    projection = 2 * batch * length * (heads * size) * (3 * heads * size)
    assert count(step, layer.zero_grad) == 3 * attention + 2 * projection
    assert caplog.text == ""  # or it was counted by a real step


def test_the_model_is_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.get_rng_state()

    def step() -> None:
        with torch.no_grad():  # as an attack on the weights does, which takes it back afterwards
            model[0].weight.add_(1)
            model[0].weight.copy_(model[0].bias[:, None])
        model(torch.ones(3, 10)).sum().backward()

    assert count(step, model.zero_grad) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(type(tensor) is torch.Tensor for tensor in model.state_dict().values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_where_a_number_is_read_a_real_step_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    first, second, left = nn.Linear(10, 20), nn.Linear(20, 5), []

    def step() -> None:
        left.append("a call")
        hidden = first(torch.ones(3, 10))
        expert = second if float(hidden.sum()) > -1e9 else first
        expert(hidden).sum().backward()

    assert count(step, left.clear) == 2 * 3 * 10 * 20 * 2 + 2 * 3 * 20 * 5 * 3
    assert left == []
    assert "counted by a real step" in caplog.text


@pytest.mark.parametrize("heads", [4, 2])
def test_fused_attention_counts_as_its_two_products(heads: int) -> None:
    query = torch.ones(2, 4, 16, 8, requires_grad=True)
    key, value = (torch.ones(2, heads, 16, 8, requires_grad=True) for _ in range(2))
    forward = 2 * (2 * 2 * 4 * 16 * 16 * 8)
    ran = []

    def step() -> None:
        with torch.profiler.profile() as profile:
            out = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=heads < 4)
            out.sum().backward()
        ran.extend(event.key for event in profile.key_averages())

    assert _counted(step, None) == 3 * forward
    assert any("flash_attention_for_cpu_backward" in name for name in ran)
