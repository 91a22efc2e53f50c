"""One's own data: files of each split, folders of datasets, and the hub's cache as it is on a disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.tasks.base import TaskError
from bench.tasks.kinds.classification import Classification, ClassificationTable
from bench.tasks.registry import open_task

datasets = pytest.importorskip("datasets")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def records(split: str, count: int) -> list[dict[str, Any]]:
    return [{"sentence": f"{split} text {n} is {'good' if n % 2 else 'bad'}", "label": n % 2} for n in range(count)]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)))


def hub_data(cache: Path, name: str, splits: dict[str, int], config: str = "sst2") -> Path:
    """A data set as the hub's cache has it: refs, and a snapshot with a card that names the files of each split."""
    folder = cache / f"datasets--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    features = "\n".join(
        [
            "dataset_info:", f"- config_name: {config}", "  features:", "  - name: sentence", "    dtype: string",
            "  - name: label", "    dtype:", "      class_label:", "        names:", "          '0': negative",
            "          '1': positive",
        ]
    )  # fmt: skip
    files = [f"  - split: {split}\n    path: {config}/{split}.jsonl" for split in splits]
    card = "\n".join(
        ["---", features, "configs:", f"- config_name: {config}", "  data_files:", *files, "---", "A card."]
    )
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(card)
    for split, count in splits.items():
        write(snapshot / config / f"{split}.jsonl", records(split, count))
    return snapshot


def table(**keys: Any) -> ClassificationTable:
    return ClassificationTable(kind="classification", **{"text": "sentence", **keys})


def texts_of(task: Classification) -> dict[str, Counter[str]]:
    return {
        split: Counter(text.split()[0] for text in task.texts(split))  # type: ignore[arg-type]
        for split in ("train", "validation", "test")
    }


class TestFiles:
    def test_splits_in_files_of_their_own_are_kept(self, tmp_path: Path) -> None:
        for split, count in (("train", 40), ("validation", 6), ("test", 10)):
            write(tmp_path / f"{split}.jsonl", records(split, count))
        task = Classification(table(train="train.jsonl", validation="validation.jsonl", test="test.jsonl"), tmp_path)
        assert task.problems() == []
        assert texts_of(task) == {"train": {"train": 40}, "validation": {"validation": 6}, "test": {"test": 10}}

    def test_without_validation_it_is_taken_from_training(self, tmp_path: Path) -> None:
        for split, count in (("train", 200), ("test", 10)):
            write(tmp_path / f"{split}.jsonl", records(split, count))
        task = Classification(table(train="train.jsonl", test="test.jsonl"), tmp_path)
        found = texts_of(task)
        assert found["test"] == {"test": 10}
        assert found["train"]["train"] + found["validation"]["train"] == 200
        assert 5 < found["validation"]["train"] < 40

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ({"train": "a.csv"}, "`test` is missing beside `train`"),
            ({"data": "a.csv", "test": "b.csv"}, "`data` and `test` name the data twice"),
            ({}, "name the data: one file in `data`, or one for each split in `train` and `test`"),
        ],
    )
    def test_what_is_not_named_is_said(self, keys: dict[str, str], says: str) -> None:
        from pydantic import ValidationError

        with pytest.raises(ValidationError, match=says):
            table(**keys)

    def test_a_file_that_changes_is_read_again(self, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", records("a", 50))
        before = Classification(table(data="a.jsonl"), tmp_path).fingerprint()
        assert Classification(table(data="a.jsonl"), tmp_path).fingerprint() == before
        write(tmp_path / "a.jsonl", records("b", 50))
        assert Classification(table(data="a.jsonl"), tmp_path).fingerprint() != before


class TestFolders:
    def test_a_folder_that_datasets_saved_has_its_splits_and_the_names_of_classes(self, tmp_path: Path) -> None:
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list(records(split, count), features=features)
                for split, count in (("train", 30), ("test", 10))
            }
        ).save_to_disk(str(tmp_path / "saved"))
        task = Classification(table(data="saved"), tmp_path)
        assert task.problems() == []
        assert task.labels == ("neg", "pos")
        assert texts_of(task)["test"] == {"test": 10}
        single = Classification(table(data="saved/train"), tmp_path)
        assert single.problems() == []
        assert sum(sum(of.values()) for of in texts_of(single).values()) == 30

    def test_a_folder_of_files_names_one_of_them(self, tmp_path: Path) -> None:
        write(tmp_path / "folder/a.jsonl", records("a", 3))
        (problem,) = Classification(table(data="folder"), tmp_path).problems()
        assert "save_to_disk did not write" in problem
        assert problem.endswith(f"give one of its files, as {tmp_path / 'folder/a.jsonl'}")


# The hub's own settings are read at import, so that each of these has a process of its own.
PROGRAM = """
import json, sys
from pathlib import Path
from bench.tasks.registry import open_task, check_table
spec = json.loads(sys.argv[1])
task = open_task(check_table(spec) if isinstance(spec, dict) else spec, Path())
problems = task.problems()
found = {} if problems else {"counts": task.counts(), "labels": task.labels, "fingerprint": task.fingerprint()}
print(json.dumps({"problems": problems, "name": task.name, **found}))
"""


def in_a_process(spec: object, home: Path, **environment: str) -> dict[str, Any]:
    import os

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(spec)],
        env={
            **os.environ, "HF_HOME": str(home), "METHODBENCH_CACHE": str(home / "own"), "HF_ENDPOINT": "http://127.0.0.1:9",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestHub:
    def test_a_task_file_finds_its_data_in_the_cache(self, tmp_path: Path) -> None:
        hub_data(tmp_path / "hub", "nyu-mll/glue", {"train": 60, "validation": 12, "test": 5})
        found = in_a_process("glue/sst2", tmp_path)
        assert found["problems"] == []
        assert found["name"] == "glue/sst2"
        assert found["labels"] == ["negative", "positive"]
        counts = found["counts"]
        assert counts["test"] == 12, "what glue calls validation"
        assert counts["train"] + counts["validation"] == 60
        # Read from our own cache, the same.
        assert in_a_process("glue/sst2", tmp_path)["fingerprint"] == found["fingerprint"]

    def test_a_revision_is_the_one_that_is_asked_for(self, tmp_path: Path) -> None:
        snapshot = hub_data(tmp_path / "hub", "org/some", {"train": 60, "test": 12})
        other = "f" * 40
        shutil.copytree(snapshot, snapshot.parent / other)
        write(snapshot.parent / other / "sst2/train.jsonl", records("other", 60))
        spec = {"kind": "classification", "data": "org/some", "config": "sst2", "text": "sentence"}
        first, second = (in_a_process({**spec, **more}, tmp_path) for more in ({}, {"revision": other}))
        assert first["problems"] == second["problems"] == []
        assert first["fingerprint"] != second["fingerprint"]

    @pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
    def test_no_network_and_nothing_cached_says_how_to_fetch_it(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        (problem,) = in_a_process("glue/sst2", tmp_path, **environment)["problems"]
        assert problem.startswith(
            "task.data: nyu-mll/glue (sst2): the hub cannot be reached and nothing is in the cache"
        )
        assert "`hf download --repo-type dataset nyu-mll/glue`" in problem

    def test_a_split_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        hub_data(tmp_path / "hub", "org/some", {"train": 60, "dev": 12})
        spec = {"kind": "classification", "data": "org/some", "config": "sst2", "text": "sentence"}
        (problem,) = in_a_process(spec, tmp_path)["problems"]
        assert "has no split `test`; known: dev, train; say which it is, as in splits = { test = " in problem


class TestTaskFiles:
    def test_a_path_beside_the_suite(self, tmp_path: Path) -> None:
        write(tmp_path / "tasks/a.jsonl", records("a", 60))
        (tmp_path / "tasks/mine.toml").write_text(
            '[task]\nkind = "classification"\ndata = "a.jsonl"\ntext = "sentence"\n'
        )
        task = open_task("tasks/mine.toml", tmp_path)
        assert task.problems() == []
        assert task.name == "mine"

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("x", "not TOML"),
            ("a = 1", "a: unknown key; a task file has a [task] table and a `summary`"),
            ("summary = 'x'", 'task: this table is missing; begin it with [task] and kind = "classification"'),
            ('[task]\nkind = "classification"\ndata = "a"\ntxt = "b"', "task.txt: unknown key; did you mean `text`?"),
            ('[task]\nkind = "classifcation"\ndata = "a"', "task.kind: Input should be 'classification'"),
        ],
    )
    def test_what_is_wrong_in_a_task_file_is_said(self, content: str, says: str, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text(content)
        with pytest.raises(TaskError) as error:
            open_task("a.toml", tmp_path)
        assert str(error.value).startswith(f"{tmp_path / 'a.toml'}: {says}")

    def test_every_one_that_comes_along_is_whole(self) -> None:
        from bench.tasks.files import read, shipped

        assert len(shipped()) >= 9
        for name, file in shipped().items():
            assert open_task(name, Path()).name == name
            found = read(file)
            assert found["summary"].strip()
            # Repositories without an owner are those of old, which load by a script: datasets runs none.
            assert "/" in found["task"]["data"]
