from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.measure import memory
from bench.measure.memory import (
    gradient_bytes,
    optimizer_bytes,
    parameter_counts,
    saved_activations,
    storage_bytes,
)

MB = 2**20


# -- storages


def test_a_linear_layer_and_its_adamw_to_the_byte() -> None:
    model = nn.Linear(10, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    assert storage_bytes(model) == (10 * 4 + 4) * 4 == 176
    assert gradient_bytes(model.parameters()) == 0
    assert optimizer_bytes(optimizer) == 0
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    assert gradient_bytes(model.parameters()) == 176
    assert optimizer_bytes(optimizer) == 2 * 176 + 2 * 4  # two moments, and a float32 step counter a parameter
    model.weight.grad = None
    assert gradient_bytes(model.parameters()) == 16
    assert storage_bytes(model) == 176, "gradients are not weights"


def test_dtype_and_buffers_count() -> None:
    model = nn.BatchNorm1d(3).to(torch.bfloat16)  # weight, bias, mean and variance of bf16, an int64 counter
    assert storage_bytes(model) == 4 * 3 * 2 + 8


def test_shared_storages_count_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    assert storage_bytes(model) == 512
    model[1].weight = model[0].weight
    assert storage_bytes(model) == 256
    model[1].weight = nn.Parameter(model[0].weight.data.t())  # another parameter over the same storage
    assert storage_bytes(model) == 256


def test_a_view_counts_as_the_storage_that_it_keeps_alive() -> None:
    huge = torch.zeros(1000)
    assert storage_bytes(huge[:3]) == 4000
    assert storage_bytes([huge[:3], huge[500:]]) == 4000
    assert storage_bytes(huge[:3].clone()) == 12


def test_two_storages_over_the_same_memory_count_once() -> None:
    array = np.zeros(10, dtype=np.float32)
    assert storage_bytes([torch.from_numpy(array), torch.from_numpy(array)]) == 40


def test_tensors_without_data_count_by_their_storage() -> None:
    assert storage_bytes([torch.empty(4, device="meta"), torch.empty(4, device="meta")]) == 32


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_sparse_tensors_count_indices_and_values() -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    coo = dense.to_sparse_coo()
    assert storage_bytes(coo) == 2 * 2 * 8 + 2 * 4
    csr = torch.sparse_csr_tensor([0, 1, 2], [1, 0], [1.0, 2.0], size=(2, 2), check_invariants=True)
    assert storage_bytes(csr) == 3 * 8 + 2 * 8 + 2 * 4
    assert parameter_counts(Holder(coo))["nonzero"] == parameter_counts(Holder(csr))["nonzero"] == 2


def test_a_model_mapped_from_safetensors_counts_its_tensors_and_not_the_file(tmp_path: Path) -> None:
    bert = tiny_bert()
    bert.save_pretrained(tmp_path)
    expected = sum(p.numel() * p.element_size() for p in (*bert.parameters(), *bert.buffers()))
    assert storage_bytes(type(bert).from_pretrained(tmp_path)) == expected


def test_optimizer_state_is_found_in_nested_containers_once() -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight])
    shared = torch.zeros(4)
    optimizer.state[weight] = {"a": [shared, (shared[1:], {"b": torch.zeros(3)})], "step": 7, "none": None}
    assert optimizer_bytes(optimizer) == 16 + 12


class Holder(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


# -- packed weights


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("compress", [True, False])
def test_bitsandbytes_four_bits_to_the_byte(quant_type: str, compress: bool) -> None:
    bnb = bitsandbytes()
    layer = bnb.nn.Linear4bit(64, 32, quant_type=quant_type, compress_statistics=compress).to("cpu")
    packed, bias, code = 64 * 32 // 2, 32 * 4, 16 * 4
    blocks = 64 * 32 // 64
    # A byte a block, an offset, and the absmax and code of the bytes; or a float a block.
    absmax = blocks * 1 + 4 + 1 * 4 + 256 * 4 if compress else blocks * 4
    assert storage_bytes(layer) == packed + bias + code + absmax
    assert storage_bytes(layer.weight) == packed + code + absmax


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_parameters_of_four_bits_count_at_their_unpacked_shape(quant_type: str) -> None:
    bnb = bitsandbytes()
    layer = bnb.nn.Linear4bit(64, 32, bias=False, quant_type=quant_type)
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    with torch.no_grad():
        layer.weight[:, :10] = 0
    layer = layer.to("cpu")
    assert parameter_counts(layer) == {"total": 64 * 32, "nonzero": 54 * 32}
    layer.eval()
    layer.support_avx512bf16_for_cpu = True  # as on a CPU whose kernel repacks the weight at the first inference
    try:
        with torch.no_grad():
            layer(torch.ones(1, 64))
    except RuntimeError:
        pytest.skip("this CPU has no such kernel")
    assert parameter_counts(layer) == {"total": 64 * 32, "nonzero": 54 * 32}


def test_bitsandbytes_eight_bits_to_the_byte_before_and_after_use() -> None:
    bnb = bitsandbytes()
    layer = bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False).to("cpu")
    expected = 64 * 32 + 32 * 4 + 32 * 4  # weight, a float32 scale a row, bias
    assert storage_bytes(layer) == expected
    assert parameter_counts(layer)["total"] == 64 * 32 + 32
    layer.eval()
    with torch.no_grad():
        layer(torch.ones(1, 64))
    assert layer.weight.SCB is None, "the scales have moved to the module's state"
    assert storage_bytes(layer) == expected


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_outliers_of_the_last_batch_are_no_weights() -> None:
    bnb = bitsandbytes()
    layer = bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False, threshold=6.0).to("cpu").eval()
    with torch.no_grad():
        layer(torch.ones(1, 64).index_fill(1, torch.arange(5), 50.0))
    assert len(layer.state.idx) == 5
    assert storage_bytes(layer) == 64 * 32 + 32 * 4 + 32 * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchao.*")
@pytest.mark.filterwarnings("ignore::FutureWarning:torchao.*")
def test_torchao_int8_to_the_byte() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = nn.Sequential(nn.Linear(64, 32))
    nn.init.uniform_(model[0].weight, 0.5, 1.0)
    with torch.no_grad():
        model[0].weight[:, :10] = 0
    quantize_(model, Int8WeightOnlyConfig())
    weight = model[0].weight
    parts = {name: getattr(weight, name) for name in weight.__tensor_flatten__()[0]}
    assert parts["qdata"].dtype == torch.int8
    # int8 weight, float32 scale and int8 zero point a row, bias
    assert storage_bytes(model) == 64 * 32 + 32 * 4 + (32 if "zero_point" in parts else 0) + 32 * 4
    assert parameter_counts(model) == {"total": 64 * 32 + 32, "nonzero": 54 * 32 + 32}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, :UserWarning")
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_int8_to_the_byte(per_channel: bool) -> None:
    from torch.ao import quantization

    model = nn.Sequential(nn.Linear(10, 4), nn.LayerNorm(4))
    nn.init.uniform_(model[0].weight, 0.5, 1.0)
    with torch.no_grad():
        model[0].weight[:, :3] = 0
        model[0].bias.fill_(1)
    spec = {nn.Linear: quantization.per_channel_dynamic_qconfig} if per_channel else {nn.Linear}
    quantized = quantization.quantize_dynamic(model, spec, dtype=torch.qint8)
    assert not list(quantized[0].parameters()), "the packed weight is no parameter"
    scales = 4 if per_channel else 1
    norm = 2 * 4 * 4
    assert storage_bytes(quantized) == 10 * 4 * 1 + scales * (4 + 4) + 4 * 4 + norm
    assert parameter_counts(quantized) == {"total": 40 + 4 + 8, "nonzero": 7 * 4 + 4 + 4}


def test_parameter_counts_see_zeros_and_tied_weights_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[1].weight)
    with torch.no_grad():
        model[0].weight[0] = 0
    assert parameter_counts(model) == {"total": 128, "nonzero": 120}
    model[1].weight = nn.Parameter(model[0].weight.data)  # tied, though another object
    assert parameter_counts(model) == {"total": 64, "nonzero": 56}
    assert parameter_counts(nn.BatchNorm1d(3))["total"] == 6, "buffers are no weights"


# -- activations


class Block(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))
        self.checkpointed = checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)


def test_saved_activations_to_the_byte() -> None:
    model = Block()
    inputs = torch.ones(3, 10)
    with saved_activations(model) as saved:
        loss = model(inputs).sum()
    # The input of the first layer, and the ReLU's output, saved twice. Weights are saved too, and left out.
    assert saved.bytes == 3 * 10 * 4 + 3 * 4 * 4
    loss.backward()
    assert model.inner[0].weight.grad is not None


def test_nothing_is_saved_without_gradients() -> None:
    model = Block()
    with saved_activations(model) as saved, torch.no_grad():
        model(torch.ones(3, 10))
    assert saved.bytes == 0


def test_checkpointing_saves_the_input_alone() -> None:
    model = Block(checkpointed=True)
    with saved_activations(model) as saved:
        loss = model(torch.ones(3, 10, requires_grad=True)).sum()
    assert saved.bytes == 3 * 10 * 4
    loss.backward()
    assert model.inner[0].weight.grad is not None


def test_what_is_let_go_of_before_any_backward_pass_was_saved_for_none() -> None:
    frozen = Block(checkpointed=True)
    frozen.requires_grad_(False)  # the checkpoint holds its input until it is through, and nothing else needs it
    head = nn.Linear(2, 1)
    with saved_activations(nn.ModuleList([frozen, head])) as saved:
        head(frozen(torch.ones(3, 10))).sum().backward()
    assert saved.bytes == 3 * 2 * 4  # the head's input


def test_counting_keeps_no_activation_alive() -> None:
    model = Block()
    inputs = torch.ones(3, 10)
    reference = weakref.ref(inputs)
    with saved_activations(model) as saved:
        loss = model(inputs).sum()
    del inputs, loss
    gc.collect()
    assert reference() is None
    assert saved.bytes == 168


# -- models


def bitsandbytes() -> Any:
    import bitsandbytes

    return bitsandbytes


def tiny_bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )


def test_saved_activations_of_micro_batches_do_not_add_up():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    inputs = torch.randn(32, 64)

    def step(parts):
        with memory.saved_activations(model) as saved:
            for part in inputs.clone().split(32 // parts):
                model(part.clone()).sum().backward()
        return saved.bytes

    assert step(1) == pytest.approx(4 * step(4), rel=0.02)


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning", "ignore:torch.ao:DeprecationWarning")
def test_parameters_of_many_packed_layers_all_count():
    from torch.ao.quantization import quantize_dynamic

    # Alike in shape, so that unpacking one may give it the address of the one before.
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8)))
    packed = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert memory.parameter_counts(packed)["total"] == 8 * (32 * 32 + 32)
