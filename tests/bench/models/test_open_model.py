from __future__ import annotations

from pathlib import Path

import pytest

from bench.models.base import ModelError
from bench.models.registry import open_model
from bench.models.sources.directory import Directory
from bench.models.sources.minilm import MiniLM


def test_a_name_and_a_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert isinstance(open_model("minilm", tmp_path), MiniLM)
    model = open_model("./mine", tmp_path)
    assert isinstance(model, Directory)
    assert (model.name, model.path) == ("mine", tmp_path / "mine")
    assert open_model(str(tmp_path / "mine"), Path("/elsewhere")).problems()


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        open_model("minilmm", tmp_path)
    where = f"neither a registered model nor a directory ({tmp_path}/minilmm)"
    assert str(error.value) == f"`minilmm` is {where}; did you mean `minilm`?"
