"""What bitsandbytes' layers are mended for, where no method's own test sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.models import packed
from bench.testing import jobs


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("method", ["nf4", "bnb_int8"])
def test_dora_trains_on_packed_weights(method: str, tiny_llama: Path, tmp_path: Path) -> None:
    text = f'{method} >> lora(r=2, variant="dora")'
    status, reason, _ = jobs.run(text, tiny_llama, tmp_path, task=jobs.prose(tmp_path))
    assert status == "ok", reason


def test_a_weight_that_is_there_already_is_not_made_anew() -> None:
    layer = packed.Linear8bit(8, 8, bias=False, has_fp16_weights=False)
    layer.weight = packed.bitsandbytes.nn.Int8Params(torch.randn(8, 8), requires_grad=False, has_fp16_weights=False).to(
        "cpu"
    )
    assert layer.weight.dtype == torch.int8  # moving is what quantizes
    inputs = torch.randn(2, 8)
    before = layer(inputs)
    assert layer.weight.to("cpu") is layer.weight
    layer.weight = layer.weight.to(torch.device("cpu"))
    assert torch.equal(layer(inputs), before)


def test_only_conversions_that_go_back_are_kept() -> None:
    class There:
        def reverse_transform(self) -> None: ...

    class Lost:
        def reverse_transform(self) -> None:
            raise NotImplementedError

    model = torch.nn.Module()
    there = There()
    model._weight_conversions = [there, Lost()]  # type: ignore[assignment]
    packed.mend_loaded(model)
    assert model._weight_conversions == [there]
