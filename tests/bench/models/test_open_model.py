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


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    with pytest.raises(ModelError, match="neither a registered model, nor a directory"):
        open_model("org/name", tmp_path)


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        open_model("minilmm", tmp_path)
    where = f"neither a registered model, nor a directory ({tmp_path}/minilmm), nor a name on the hub such as org/name or org/name@revision"
    assert str(error.value) == f"`minilmm` is {where}; did you mean `minilm`?"
