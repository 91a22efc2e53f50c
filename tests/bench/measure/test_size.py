from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.measure.size import on_disk


class Pretrained(nn.Linear):
    def save_pretrained(self, folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"x" * 100)
        (folder / "config.json").write_bytes(b"{}")
        (folder / "README.md").write_bytes(b"read me")
        (folder / "part").mkdir()
        (folder / "part" / "more.bin").write_bytes(b"y" * 7)


def test_save_pretrained_is_weighed_file_by_file_without_the_card(tmp_path: Path) -> None:
    assert on_disk(Pretrained(2, 2), tmp_path / "new") == {
        "bytes": 109,
        "files": {"config.json": 2, "model.bin": 100, "part/more.bin": 7},
    }


def test_the_first_saver_that_says_so_wins(tmp_path: Path) -> None:
    asked = []

    def declines(model: nn.Module, folder: Path) -> bool:
        asked.append("declines")
        return False

    def saves(model: nn.Module, folder: Path) -> bool:
        asked.append("saves")
        (folder / "packed").write_bytes(b"z" * 5)
        return True

    def never(model: nn.Module, folder: Path) -> bool:
        raise AssertionError

    assert on_disk(Pretrained(2, 2), tmp_path, [declines, saves, never]) == {
        "bytes": 5,
        "files": {"packed": 5},
    }
    assert asked == ["declines", "saves"]
    assert on_disk(Pretrained(2, 2), tmp_path / "other", [declines])["bytes"] == 109


def test_a_plain_module_is_saved_by_its_state(tmp_path: Path) -> None:
    model = nn.Linear(1000, 10)
    found = on_disk(model, tmp_path)
    assert list(found["files"]) == ["model.pt"]
    assert found["bytes"] == (tmp_path / "model.pt").stat().st_size
    assert 10_010 * 4 < found["bytes"] < 10_010 * 4 + 3000
    assert torch.equal(torch.load(tmp_path / "model.pt")["weight"], model.weight)


def test_a_failed_saver_is_not_passed_over(tmp_path: Path) -> None:
    def fails(model: nn.Module, folder: Path) -> bool:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        on_disk(Pretrained(2, 2), tmp_path, [fails])


def test_what_lay_there_before_is_not_weighed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"1")
    with pytest.raises(ValueError, match="not empty"):
        on_disk(Pretrained(2, 2), tmp_path)


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(vocab_size=500, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    )


def test_a_transformers_model_is_its_weights_and_configuration(tmp_path: Path) -> None:
    model = bert()
    found = on_disk(model, tmp_path)
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert weights <= found["files"]["model.safetensors"] < weights + 8000  # a JSON header
    assert set(found["files"]) == {"config.json", "model.safetensors"}


def test_half_precision_is_half_as_big(tmp_path: Path) -> None:
    full = on_disk(bert(), tmp_path / "full")["files"]["model.safetensors"]
    half = on_disk(bert().to(torch.bfloat16), tmp_path / "half")["files"]["model.safetensors"]
    assert half < 0.55 * full


# peft 0.21 asks transformers 5.23 by a name that it deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
def test_a_peft_model_is_its_adapter_alone(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(bert(), LoraConfig(r=4, target_modules=["query", "value"]))
    found = on_disk(model, tmp_path)
    adapter = 2 * 2 * (32 * 4 + 4 * 32) * 4
    assert (tmp_path / "README.md").exists()
    assert set(found["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert adapter <= found["files"]["adapter_model.safetensors"] < adapter + 2000
